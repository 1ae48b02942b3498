#include "cli/bench_engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "base/random.h"

namespace sluice::cli {
namespace {

constexpr std::chrono::milliseconds kStopPeriod{50};
constexpr int64_t kIdleMsMax = 60'000;

// Shared with the sinks, which may outlive run_jobs() when it throws.
struct Tally {
  std::mutex mutex;
  std::condition_variable done;
  int64_t num_left = 0, num_finished = 0, prompt_tokens = 0, first_us = 0;
  std::vector<int64_t> token_times;  // of a step all the same
  std::optional<Error> error;
};

}  // namespace

BenchRun run_jobs(engine::Engine& engine, std::vector<BenchJob> jobs, const std::function<bool()>& should_stop,
                  int64_t decode_steps) {
  static std::atomic<uint64_t> next_id{0};
  auto tally = std::make_shared<Tally>();
  const auto num_jobs = static_cast<int64_t>(jobs.size());
  const bool only_prompts =
      std::all_of(jobs.begin(), jobs.end(), [](const BenchJob& job) { return job.num_generated == 1; });
  tally->num_left = num_jobs;
  std::vector<std::string> ids;
  const int64_t num_steps_before = engine.stats().num_steps, start_us = monotonic_us();
  for (BenchJob& job : jobs) {
    engine::Request request;
    request.id = ids.emplace_back(fmt::format("bench-{}", next_id++));
    const auto num_prompt = static_cast<int64_t>(job.prompt.size());
    request.prompt = std::move(job.prompt);
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = job.num_generated;
    request.sink = [tally, num_prompt, has_begun = false](engine::Event&& event) mutable {
      std::lock_guard lock(tally->mutex);
      tally->token_times.insert(tally->token_times.end(), event.tokens.size(), event.emitted_us);
      if (!has_begun && !event.tokens.empty()) tally->prompt_tokens += num_prompt;
      has_begun = has_begun || !event.tokens.empty();
      tally->first_us = std::max(tally->first_us, event.timings.first_token_us);
      if (event.error) tally->error = event.error;
      if (!event.is_last) return;
      tally->num_finished += event.finish_reason == engine::FinishReason::kLength ? 1 : 0;
      if (--tally->num_left == 0) tally->done.notify_one();
    };
    if (engine.submit(std::move(request)) != engine::SubmitResult::kAccepted) {
      fail(Code::kResourceExhausted, "the engine refused to take {} sequences at once; use fewer", num_jobs);
    }
  }

  BenchRun run;
  std::unique_lock lock(tally->mutex);
  while (!tally->done.wait_for(lock, kStopPeriod, [&] { return tally->num_left == 0; })) {
    if (run.is_stopped || !should_stop || !should_stop()) continue;
    run.is_stopped = true;
    lock.unlock();
    for (const std::string& id : ids) engine.cancel(id);
    lock.lock();
  }
  if (tally->error) throw *tally->error;
  run.is_stopped = tally->num_finished < num_jobs;  // perhaps all were done just then
  run.num_finished = tally->num_finished;
  run.prompt_tokens = tally->prompt_tokens;
  std::vector<int64_t>& times = tally->token_times;
  run.generated_tokens = static_cast<int64_t>(times.size());
  std::sort(times.begin(), times.end());
  if (decode_steps > 0) {
    auto end = std::upper_bound(times.begin(), times.end(), tally->first_us);
    for (int64_t step = 0; step < decode_steps && end != times.end(); ++step) end = std::upper_bound(end, times.end(), *end);
    times.erase(end, times.end());
  }
  if (!times.empty()) run.seconds = static_cast<double>(times.back() - start_us) / 1e6;
  const int64_t prompts_us = only_prompts || tally->first_us == 0 ? 0 : tally->first_us - start_us;
  run.prompt_seconds = prompts_us > 0 ? static_cast<double>(prompts_us) / 1e6 : run.seconds;
  // Tokens of the step in which the last prompt was done have just its time.
  times.erase(times.begin(), std::upper_bound(times.begin(), times.end(), tally->first_us));
  run.decoded_tokens = static_cast<int64_t>(times.size());
  run.num_decode_steps = std::unique(times.begin(), times.end()) - times.begin();
  lock.unlock();
  engine.wait_until_idle(kIdleMsMax);  // only then do the counters have the last step
  run.num_steps = engine.stats().num_steps - num_steps_before;
  return run;
}

std::vector<int32_t> random_prompt(int64_t count, int64_t vocabulary, uint64_t seed, uint64_t stream) {
  Random random(seed, stream);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
  return ids;
}

}  // namespace sluice::cli
