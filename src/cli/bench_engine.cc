#include "cli/bench_engine.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "base/random.h"

namespace sluice::cli {
namespace {

// Shared with the sinks, which may outlive run_jobs() when it throws.
struct Tally {
  std::mutex mutex;
  std::condition_variable done;
  int64_t num_left = 0, first_us = 0, last_us = 0;
  std::vector<int64_t> token_times;
  std::optional<Error> error;
};

}  // namespace

BenchRun run_jobs(engine::Engine& engine, std::vector<BenchJob> jobs) {
  static std::atomic<uint64_t> next_id{0};
  auto tally = std::make_shared<Tally>();
  BenchRun run;
  bool only_prompts = true;
  tally->num_left = static_cast<int64_t>(jobs.size());
  const int64_t start_us = monotonic_us();
  for (BenchJob& job : jobs) {
    run.prompt_tokens += static_cast<int64_t>(job.prompt.size());
    run.generated_tokens += job.num_generated;
    only_prompts = only_prompts && job.num_generated == 1;
    engine::Request request;
    request.id = fmt::format("bench-{}", next_id++);
    request.prompt = std::move(job.prompt);
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = job.num_generated;
    request.sink = [tally](engine::Event&& event) {
      std::lock_guard lock(tally->mutex);
      tally->token_times.insert(tally->token_times.end(), event.tokens.size(), event.emitted_us);
      tally->first_us = std::max(tally->first_us, event.timings.first_token_us);
      if (event.error) tally->error = event.error;
      if (!event.is_last) return;
      tally->last_us = std::max(tally->last_us, event.emitted_us);
      if (--tally->num_left == 0) tally->done.notify_one();
    };
    if (engine.submit(std::move(request)) != engine::SubmitResult::kAccepted) {
      fail(Code::kResourceExhausted, "the engine refused {} sequences at once; raise --max-queue", jobs.size());
    }
  }
  std::unique_lock lock(tally->mutex);
  tally->done.wait(lock, [&] { return tally->num_left == 0; });
  if (tally->error) throw *tally->error;
  // Those of the step in which the last prompt was done have just its time.
  for (int64_t time : tally->token_times) run.decoded_tokens += time > tally->first_us ? 1 : 0;
  run.seconds = static_cast<double>(tally->last_us - start_us) / 1e6;
  run.prompt_seconds = only_prompts ? run.seconds : static_cast<double>(tally->first_us - start_us) / 1e6;
  return run;
}

std::vector<int32_t> random_prompt(int64_t count, int64_t vocabulary, uint64_t seed, uint64_t stream) {
  Random random(seed, stream);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
  return ids;
}

}  // namespace sluice::cli
