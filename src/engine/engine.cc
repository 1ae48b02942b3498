// The side of the engine that any thread may call.
#include "engine/engine.h"

#include <chrono>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "engine/engine_impl.h"

namespace sluice::engine {
namespace {

constexpr int kMaxSequences = 128;  // of one request
// Entries of one request, which it holds in memory.
constexpr int64_t kMaxPromptLogprobs = int64_t{1} << 24;

EngineOptions complete(EngineOptions options) {
  if (options.max_num_batched_tokens < 1) {
    fail_param("max_num_batched_tokens", "max-num-batched-tokens must be at least 1, not {}",
               options.max_num_batched_tokens);
  }
  if (options.max_num_seqs < 1)
    fail_param("max_num_seqs", "max-num-seqs must be at least 1, not {}", options.max_num_seqs);
  if (options.max_queue < 0)
    fail_param("max_queue", "max-queue must not be negative, and is {}", options.max_queue);
  if (options.max_num_seqs > options.max_num_batched_tokens) {
    LOG(warning,
        "max-num-seqs lowered from {} to max-num-batched-tokens, {}: each running sequence takes a "
        "token a step",
        options.max_num_seqs, options.max_num_batched_tokens);
    options.max_num_seqs = options.max_num_batched_tokens;
  }
  return options;
}

EngineOptions complete(EngineOptions options, const KvMemoryPlan& memory) {
  options.max_model_len = memory.max_model_len;
  return options;
}

SchedulerOptions scheduler_options(const EngineOptions& options) {
  return {.max_num_batched_tokens = options.max_num_batched_tokens,
          .max_num_seqs = options.max_num_seqs,
          .max_model_len = options.max_model_len,
          .long_prefill_token_threshold = options.long_prefill_token_threshold,
          .policy = options.policy,
          .end_tokens = options.end_tokens};
}

}  // namespace

Engine::Impl::Impl(llm::Model& model, ThreadPool& pool, const EngineOptions& checked,
                   const KvMemoryPlan& memory)
    : model(model),
      pool(pool),
      options(complete(checked, memory)),
      vocab_size(model.vocab_size()),
      kv(model.kv_layout(options.kv_cache_type), memory.num_pages),
      sampler(vocab_size, options.end_tokens),
      scheduler(scheduler_options(options), {.num_pages = memory.num_pages,
                                             .enable_prefix_caching = options.enable_prefix_caching,
                                             .hash_seed = random_seed()}),
      scratches(static_cast<size_t>(pool.num_threads())) {
  stats.num_pages = stats.num_free_pages = memory.num_pages;
}

void Engine::Impl::check_request(const Request& request) const {
  CHECK(request.sink != nullptr, request.id);
  int64_t num_tokens = static_cast<int64_t>(request.prompt.size());
  if (num_tokens == 0) fail_param("prompt", "the prompt has no tokens");
  if (num_tokens > options.max_model_len) {
    fail_param("prompt",
               "the prompt has {} tokens, and this model's maximum context length is {} tokens; "
               "shorten the prompt",
               num_tokens, options.max_model_len);
  }
  for (int32_t token : request.prompt) {
    if (token < 0 || token >= vocab_size) {
      fail_param("prompt",
                 "the prompt's token id {} is outside the model's vocabulary of {} tokens", token,
                 vocab_size);
    }
  }
  if (request.num_sequences < 1 || request.num_sequences > kMaxSequences) {
    fail_param("n", "n must be between 1 and {}, not {}", kMaxSequences, request.num_sequences);
  }
  sampler.validate(request.sampling);
  int64_t num_top = request.sampling.num_prompt_logprobs;
  if (num_top == kAllLogprobs || num_top > vocab_size) num_top = vocab_size;
  if (num_top > 0 && num_tokens > kMaxPromptLogprobs / num_top) {
    fail_param("prompt_logprobs",
               "{} logprobs for each of {} prompt tokens are too many; ask for at most {}", num_top,
               num_tokens, kMaxPromptLogprobs / num_tokens);
  }
}

SubmitResult Engine::Impl::submit(Request request) {
  check_request(request);
  int64_t now_us = monotonic_us();
  uint64_t seed = request.sampling.seed ? *request.sampling.seed : random_seed();
  std::unique_ptr<RequestState> state = make_request_state(std::move(request), seed);
  state->timings.arrival_us = state->request.arrival_us != 0 ? state->request.arrival_us : now_us;
  state->timings.queued_us = now_us;
  {
    std::lock_guard lock(mutex);
    if (is_stopping || !is_healthy.load()) return SubmitResult::kStopped;
    int64_t num_queued = static_cast<int64_t>(submitted.size()) + num_arriving + stats.num_waiting;
    // Requests that will find a free seat in the next step do not count as waiting.
    int64_t num_seats =
        stats.num_waiting == 0 ? std::max<int64_t>(0, options.max_num_seqs - stats.num_running) : 0;
    if (num_queued >= options.max_queue + num_seats) return SubmitResult::kQueueFull;
    if (!live_ids.insert(state->request.id).second) {
      fail(Code::kAlreadyExists,
           "request id '{}' is in use by a request that still runs; choose another",
           state->request.id);
    }
    ++num_live;
    submitted.push_back(std::move(state));
  }
  wake.notify_one();
  return SubmitResult::kAccepted;
}

void Engine::Impl::command(const std::string& request_id, int sequence_index) {
  {
    std::lock_guard lock(mutex);
    if (!live_ids.contains(request_id)) return;
    commands.push_back({.request_id = request_id, .sequence_index = sequence_index});
  }
  wake.notify_one();
}

Engine::Engine(llm::Model& model, ThreadPool& pool, EngineOptions options) {
  EngineOptions checked = complete(std::move(options));
  KvMemoryPlan memory = plan_kv_memory(checked, model, available_memory_bytes());
  impl_ = std::make_unique<Impl>(model, pool, checked, memory);
  LOG(info, "KV cache: {} pages of {} tokens, {:.1f} MiB as {}; sequences of up to {} tokens",
      memory.num_pages, kTokensPerPage,
      static_cast<double>(memory.num_pages * model.kv_layout(checked.kv_cache_type).page_bytes()) /
          (1 << 20),
      name(checked.kv_cache_type), memory.max_model_len);
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

Engine::~Engine() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->is_stopping = true;
  }
  impl_->wake.notify_one();
  impl_->thread.join();
}

SubmitResult Engine::submit(Request request) {
  return impl_->submit(std::move(request));
}

void Engine::cancel(const std::string& request_id) {
  impl_->command(request_id, -1);
}

void Engine::finish_sequence(const std::string& request_id, int sequence_index) {
  CHECK(sequence_index >= 0, sequence_index);
  impl_->command(request_id, sequence_index);
}

EngineStats Engine::stats() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->stats;
}

int64_t Engine::max_model_len() const {
  return impl_->options.max_model_len;
}

const EngineOptions& Engine::options() const {
  return impl_->options;
}

void Engine::set_step_observer(std::function<void(int64_t num_tokens)> observer) {
  auto shared = std::make_shared<const std::function<void(int64_t)>>(std::move(observer));
  std::lock_guard lock(impl_->mutex);
  impl_->observer = std::move(shared);
}

bool Engine::wait_until_idle(int64_t timeout_ms) {
  std::unique_lock lock(impl_->mutex);
  return impl_->settled.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                                 [&] { return impl_->num_live == 0; });
}

bool Engine::healthy() const {
  return impl_->is_healthy.load();
}

void Engine::check_integrity() {
  std::unique_lock lock(impl_->mutex);
  impl_->settled.wait(lock, [&] { return impl_->num_live == 0; });
  int64_t ticket = ++impl_->num_checks_wanted;
  impl_->wake.notify_one();
  impl_->settled.wait(lock, [&] { return impl_->num_checks_done >= ticket || impl_->is_stopping; });
}

}  // namespace sluice::engine
