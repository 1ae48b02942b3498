// The engine thread: take what came in, plan, compute, sample, hand out.
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <limits>
#include <new>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/trace.h"
#include "engine/engine_impl.h"

namespace sluice::engine {
namespace {

// A smaller chunk of a prompt wastes more time than it smooths.
constexpr int64_t kMinInterleavedTokens = 16;
// With fewer prompt tokens a step says nothing about the speed of prompts.
constexpr int64_t kMeasuredTokens = 32;
#ifdef NDEBUG
constexpr int64_t kIdleCheckPeriodUs = 1'000'000;
#else
constexpr int64_t kIdleCheckPeriodUs = 0;
#endif
// Sampling from fewer logits is not worth handing over to another thread.
constexpr int64_t kLogitsPerTask = 65536;

// What an exception of a step becomes. REQUIRES: called from a catch block.
Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error(Code::kResourceExhausted,
                 "out of memory while computing; lower max-num-batched-tokens or the KV cache");
  } catch (const std::exception& error) {
    return Error(Code::kInternal, std::string("computing failed: ") + error.what());
  } catch (...) {
    return Error(Code::kInternal, "computing failed for an unknown reason");
  }
}

}  // namespace

void Engine::Impl::run() {
  pthread_setname_np(pthread_self(), "sluice-engine");
  std::optional<Error> error;
  try {
    loop();
  } catch (...) {
    // Nothing in the loop but a step may throw, and a step catches; what arrives here is beyond
    // repair.
    error = current_error();
    LOG(error, "the engine stopped: {}", error->message());
    is_healthy = false;
  }
  end_all(error);
}

void Engine::Impl::loop() {
  while (take_inbox()) {
    for (std::unique_ptr<RequestState>& arrival : arrivals) scheduler.add(std::move(arrival));
    arrivals.clear();
    for (const Command& order : orders) obey(order);
    orders.clear();
    remove_done();
    if (!scheduler.is_idle()) step();
    publish();
  }
}

// Of an idle engine: nothing runs, and every page is back.
void Engine::Impl::check_idle() {
  scheduler.check_integrity();
  CHECK(!scheduler.is_idle() || scheduler.pages().num_free() == scheduler.pages().num_pages(),
        scheduler.pages().num_free());
}

// Waits for work; false at the end. What has run since the last check is checked when the engine is
// idle, not too often: a check looks at every page.
bool Engine::Impl::take_inbox() {
  std::unique_lock lock(mutex);
  auto has_work = [&] {
    return is_stopping || !submitted.empty() || !commands.empty() || !scheduler.is_idle() ||
           num_checks_wanted > num_checks_done;
  };
  while (!has_work()) {
    if (!is_unchecked) {
      wake.wait(lock, has_work);
      break;
    }
    int64_t wait_us = last_check_us + kIdleCheckPeriodUs - monotonic_us();
    if (wait_us > 0) {
      wake.wait_for(lock, std::chrono::microseconds(wait_us), has_work);
      continue;
    }
    lock.unlock();
    check_idle();
    is_unchecked = false;
    last_check_us = monotonic_us();
    lock.lock();
  }
  if (num_checks_wanted > num_checks_done) {
    check_idle();
    num_checks_done = num_checks_wanted;
    settled.notify_all();
  }
  if (is_stopping) return false;
  arrivals.swap(submitted);
  orders.swap(commands);
  num_arriving = static_cast<int64_t>(arrivals.size());
  return true;
}

void Engine::Impl::obey(const Command& order) {
  RequestState* request = scheduler.find(order.request_id);
  if (request == nullptr) return;
  if (order.sequence_index < 0) {
    scheduler.finish_all(*request, FinishReason::kAbort);
  } else if (request->is_forked() && order.sequence_index < request->request.num_sequences) {
    // Before the fork nothing was generated, so nothing can have matched.
    scheduler.finish(*request->sequences[static_cast<size_t>(order.sequence_index)],
                     FinishReason::kStop);
  }
  report_finished(*request, std::nullopt, monotonic_us());
}

int64_t Engine::Impl::prefill_limit() const {
  if (options.interleaved_step_ms <= 0) return std::numeric_limits<int64_t>::max();
  if (us_per_token <= 0) return kMinInterleavedTokens;
  double limit = static_cast<double>(options.interleaved_step_ms) * 1000 / us_per_token;
  return std::max(kMinInterleavedTokens, static_cast<int64_t>(std::min(limit, 1e9)));
}

void Engine::Impl::step() {
  TRACE("engine.step");
  is_unchecked = true;
  int64_t begin_us = monotonic_us();
  const Plan& plan = scheduler.step(begin_us, prefill_limit());
  int64_t num_tokens = static_cast<int64_t>(plan.batch.tokens.size());
  if (num_tokens > 0) {
    try {
      TRACE("engine.forward");
      int64_t num_rows = static_cast<int64_t>(plan.batch.logit_tokens.size());
      if (num_rows > logits_rows) {
        logits.reset();
        logits_rows = 0;
        logits =
            std::make_unique_for_overwrite<float[]>(static_cast<size_t>(num_rows * vocab_size));
        logits_rows = num_rows;
      }
      model.forward(plan.batch, kv, logits.get());
    } catch (...) {
      Error error = current_error();
      LOG(error, "a step of {} tokens failed: {}", num_tokens, error.message());
      for (const ScheduledSequence& part : plan.scheduled)
        end_with_error(*part.sequence->request, error);
      for (Sequence* sequence : plan.ended)
        report_finished(*sequence->request, std::nullopt, monotonic_us());
      remove_done();
      return;
    }
  }
  sample(plan);
  collect_prompt_logprobs(plan);
  for (size_t i = 0; i < plan.samples.size(); ++i) {
    if (sample_outputs[i].error)
      end_with_error(*plan.samples[i].sequence->request, *sample_outputs[i].error);
  }
  scheduler.commit(tokens);
  emit(plan);
  remove_done();

  ++num_steps;
  if (num_tokens - static_cast<int64_t>(plan.scheduled.size()) >= kMeasuredTokens) {
    double measured = static_cast<double>(std::max<int64_t>(1, monotonic_us() - begin_us)) /
                      static_cast<double>(num_tokens);
    us_per_token = us_per_token == 0 ? measured : 0.7 * us_per_token + 0.3 * measured;
  }
  std::shared_ptr<const std::function<void(int64_t)>> observe;
  {
    std::lock_guard lock(mutex);
    observe = observer;
  }
  if (observe && *observe) (*observe)(num_tokens);
}

// Fills tokens, sample_outputs and prompt_outputs, over the pool if it is much.
void Engine::Impl::sample(const Plan& plan) {
  TRACE("engine.sample");
  tokens.assign(plan.samples.size(), 0);
  sample_outputs.resize(std::max(sample_outputs.size(), plan.samples.size()));
  prompt_outputs.resize(std::max(prompt_outputs.size(), plan.prompt_logits.size()));
  groups.clear();
  for (size_t i = 0; i < plan.samples.size(); ++i) {
    bool is_same_row = i > 0 && plan.samples[i].logit_row == plan.samples[i - 1].logit_row;
    if (is_same_row) {
      groups.back().second = i + 1;
    } else {
      groups.emplace_back(i, i + 1);
    }
  }
  auto sample_one = [&](size_t i, Sampler::Scratch& scratch) {
    const Sample& sample = plan.samples[i];
    Output& output = sample_outputs[i];
    output.error.reset();
    try {
      float* row = logits.get() + sample.logit_row * vocab_size;
      tokens[i] = sampler.pick(row, *sample.sequence, scratch);
      int num_logprobs = sample.sequence->request->sampling().num_logprobs;
      if (num_logprobs != kNoLogprobs)
        output.logprobs = sampler.score(row, tokens[i], num_logprobs, scratch);
    } catch (...) {
      output.error = current_error();
    }
  };
  auto score_one = [&](size_t i, Sampler::Scratch& scratch) {
    const PromptLogits& prompt = plan.prompt_logits[i];
    Output& output = prompt_outputs[i];
    output.error.reset();
    try {
      const float* row = logits.get() + prompt.logit_row * vocab_size;
      int32_t token = prompt.sequence->tokens[static_cast<size_t>(prompt.position)];
      output.logprobs = sampler.score(
          row, token, prompt.sequence->request->sampling().num_prompt_logprobs, scratch);
    } catch (...) {
      output.error = current_error();
    }
  };
  int64_t num_tasks = static_cast<int64_t>(groups.size() + plan.prompt_logits.size());
  int64_t grain = std::max<int64_t>(1, kLogitsPerTask / vocab_size);
  pool.parallel_for(num_tasks, grain, [&](int64_t begin, int64_t end, int worker) {
    Sampler::Scratch& scratch = scratches[static_cast<size_t>(worker)];
    for (size_t task = static_cast<size_t>(begin); task < static_cast<size_t>(end); ++task) {
      if (task >= groups.size()) {
        score_one(task - groups.size(), scratch);
      } else {
        for (size_t i = groups[task].first; i < groups[task].second; ++i) sample_one(i, scratch);
      }
    }
  });
}

void Engine::Impl::collect_prompt_logprobs(const Plan& plan) {
  for (size_t i = 0; i < plan.prompt_logits.size(); ++i) {
    const PromptLogits& prompt = plan.prompt_logits[i];
    RequestState& request = *prompt.sequence->request;
    if (prompt_outputs[i].error) {
      end_with_error(request, *prompt_outputs[i].error);
      continue;
    }
    std::vector<PositionLogprobs>& all = request.prompt_logprobs;
    if (all.empty()) {
      all.reserve(static_cast<size_t>(prompt.sequence->num_prompt_tokens));
      all.push_back({.chosen = {.token = prompt.sequence->tokens.front(), .logprob = std::nanf("")},
                     .top = {}});
    }
    if (static_cast<int64_t>(all.size()) == prompt.position)
      all.push_back(std::move(prompt_outputs[i].logprobs));
  }
}

void Engine::Impl::emit(const Plan& plan) {
  int64_t now_us = monotonic_us();
  for (size_t i = 0; i < plan.samples.size(); ++i) {
    Sequence& sequence = *plan.samples[i].sequence;
    RequestState& request = *sequence.request;
    if (sequence.is_reported) continue;  // ended by an error
    ++num_generated_tokens;
    if (request.timings.first_token_us == 0) {
      request.timings.first_token_us = now_us;
      num_prompt_tokens += sequence.num_prompt_tokens;
    }
    Event event;
    event.tokens.push_back(tokens[i]);
    if (request.sampling().num_logprobs != kNoLogprobs)
      event.logprobs.push_back(std::move(sample_outputs[i].logprobs));
    send(request, sequence, std::move(event), now_us);
  }
  // What ended without a token of its own: prompts only to be computed, and sequences out of pages.
  for (const ScheduledSequence& part : plan.scheduled) {
    RequestState& request = *part.sequence->request;
    if (part.sequence->state != SequenceState::kFinished || part.sequence->is_reported) continue;
    num_prompt_tokens += part.sequence->num_prompt_tokens;
    report_finished(request, std::nullopt, now_us);
  }
  for (Sequence* sequence : plan.ended) report_finished(*sequence->request, std::nullopt, now_us);
}

void Engine::Impl::report_finished(RequestState& request, const std::optional<Error>& error,
                                   int64_t now_us) {
  for (const std::unique_ptr<Sequence>& sequence : request.sequences) {
    if (sequence->state != SequenceState::kFinished || sequence->is_reported) continue;
    Event event;
    event.error = error;
    send(request, *sequence, std::move(event), now_us);
  }
}

// Completes the event from the sequence's state and hands it to the sink.
void Engine::Impl::send(RequestState& request, Sequence& sequence, Event&& event, int64_t now_us) {
  event.sequence_index = sequence.index;
  event.emitted_us = now_us;
  event.num_cached_tokens = request.num_cached_tokens;
  if (sequence.index == 0 && request.wants_prompt_logprobs() && !request.has_sent_prompt_logprobs &&
      request.num_prompt_logprobs_left() == 0) {
    if (request.prompt_logprobs.empty()) {  // a prompt of one token
      request.prompt_logprobs.push_back(
          {.chosen = {.token = sequence.tokens.front(), .logprob = std::nanf("")}, .top = {}});
    }
    event.prompt_logprobs =
        std::make_shared<const std::vector<PositionLogprobs>>(std::move(request.prompt_logprobs));
    request.has_sent_prompt_logprobs = true;
  }
  if (sequence.state == SequenceState::kFinished) {
    sequence.is_reported = true;
    event.finish_reason = sequence.finish_reason;
    event.stop_token = sequence.stop_token;
    event.stopped_by_end_token = sequence.stopped_by_end_token;
    request.timings.finished_us = now_us;
    event.is_last = --request.num_unreported == 0;
  }
  event.timings = request.timings;
  bool is_last = event.is_last;
  if (is_last) {
    done.push_back(&request);
    // Before the sink hears of it, whose owner may use the id again at once.
    std::lock_guard lock(mutex);
    live_ids.erase(request.request.id);
  }
  try {
    request.request.sink(std::move(event));
  } catch (const std::exception& error) {
    LOG(error, "request {}: its sink failed, it is cancelled: {}", request.request.id,
        error.what());
    if (!is_last) command(request.request.id, -1);
  }
}

void Engine::Impl::end_with_error(RequestState& request, const Error& error) {
  if (request.num_unreported == 0) return;
  scheduler.finish_all(request, FinishReason::kError);
  report_finished(request, error, monotonic_us());
}

void Engine::Impl::remove_done() {
  for (RequestState* request : done) scheduler.remove(*request);
  num_removed += static_cast<int64_t>(done.size());
  done.clear();
}

void Engine::Impl::publish() {
  SchedulerStats now = scheduler.stats();
  std::lock_guard lock(mutex);
  num_arriving = 0;
  stats.num_running = now.num_running;
  stats.num_waiting = now.num_waiting;
  stats.num_free_pages = scheduler.pages().num_free();
  stats.num_preemptions = now.num_preemptions;
  stats.prompt_tokens = num_prompt_tokens;
  stats.generation_tokens = num_generated_tokens;
  stats.prefix_cache_queries = now.prefix_cache_queries;
  stats.prefix_cache_hits = now.prefix_cache_hits;
  stats.num_steps = num_steps;
  num_live -= num_removed;
  num_removed = 0;
  if (num_live == 0) settled.notify_all();
}

// At the end: every request that is left gets its last event, as aborted or with the error.
void Engine::Impl::end_all(const std::optional<Error>& error) {
  {
    std::lock_guard lock(mutex);
    is_stopping = true;
    for (std::unique_ptr<RequestState>& request : submitted) arrivals.push_back(std::move(request));
    submitted.clear();
  }
  for (std::unique_ptr<RequestState>& arrival : arrivals) {
    if (arrival) scheduler.add(std::move(arrival));
  }
  arrivals.clear();
  for (RequestState* request : scheduler.requests()) {
    scheduler.finish_all(*request, error ? FinishReason::kError : FinishReason::kAbort);
    report_finished(*request, error, monotonic_us());
  }
  remove_done();
  publish();
  std::lock_guard lock(mutex);
  num_checks_done = num_checks_wanted;
  settled.notify_all();
}

}  // namespace sluice::engine
