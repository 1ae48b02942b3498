#include "serve/backend_llm.h"

#include <chrono>
#include <filesystem>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/block_manager.h"
#include "serve/generation.h"

namespace sluice::serve {
namespace {

TokenizeResult describe_tokens(std::vector<int32_t> tokens, const text::Tokenizer* tokenizer, bool with_texts) {
  TokenizeResult result{std::move(tokens), {}};
  if (!with_texts || tokenizer == nullptr) return result;
  for (int32_t token : result.tokens) result.token_texts.push_back(tokenizer->token_text(token));
  return result;
}

}  // namespace

LlmModel::LlmModel(engine::LoadedModel loaded, LlmOptions options, Metrics* metrics) : loaded_(std::move(loaded)) {
  options.engine.end_tokens = loaded_.end_tokens;
  engine_ = std::make_unique<engine::Engine>(*loaded_.model, *loaded_.pool, options.engine);
  info_.name = options.name.empty() ? std::filesystem::path(loaded_.path).filename().string() : options.name;
  info_.path = loaded_.path;
  info_.created = unix_seconds();
  info_.max_model_len = engine_->max_model_len();
  info_.num_parameters = loaded_.model->num_parameters();
  info_.weight_bytes = loaded_.model->weight_bytes();
  info_.priority_scheduling = options.engine.policy == engine::SchedulingPolicy::kPriority;
  context_.tokenizer = loaded_.tokenizer.get();
  context_.chat_template = loaded_.chat_template.get();
  context_.defaults = loaded_.defaults;
  context_.max_model_len = info_.max_model_len;
  context_.vocab_size = loaded_.model->vocab_size();
  context_.priority_scheduling = info_.priority_scheduling;
  if (metrics != nullptr) {
    metrics_ = &metrics->for_model(info_.name);
    metrics->set_cache_info(info_.name, engine::kTokensPerPage, engine_->stats().num_pages,
                            options.engine.enable_prefix_caching);
    engine_->set_step_observer([this](int64_t num_tokens) { metrics_->observe_step(num_tokens); });
  }
  if (options.log_interval_seconds > 0) {
    log_thread_ = std::thread([this, interval = options.log_interval_seconds] { log_throughput(interval); });
  }
}

LlmModel::~LlmModel() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  if (log_thread_.joinable()) log_thread_.join();
  engine_.reset();  // before the model and the pool it computes on
}

std::unique_ptr<Generation> LlmModel::generate(GenerateRequest request, Wake wake) {
  if (request.arrival_us == 0) request.arrival_us = monotonic_us();
  PreparedRequest prepared = prepare(request, context_);

  auto queue = std::make_shared<EventQueue>(std::move(wake));
  engine::Request submission;
  submission.id = request.id;
  submission.prompt = prepared.prompt.tokens;
  submission.sampling = prepared.sampling;
  submission.num_sequences = prepared.best_of;
  submission.priority = request.priority;
  submission.cache_salt = request.cache_salt;
  submission.arrival_us = request.arrival_us;
  submission.sink = [queue](engine::Event&& event) { queue->push(std::move(event)); };

  GenerationSetup setup;
  setup.id = request.id;
  setup.tokenizer = context_.tokenizer;
  setup.n = request.n;
  setup.best_of = prepared.best_of;
  setup.detokenizer = {.skip_special = request.skip_special_tokens,
                       .stop = request.stop,
                       .include_stop = request.include_stop,
                       .min_tokens = prepared.sampling.min_tokens};
  setup.wants_logprobs = request.sampling.num_logprobs != kNoLogprobs;
  setup.max_tokens = prepared.sampling.max_tokens;
  setup.arrival_us = request.arrival_us;
  setup.deadline_us = request.deadline_us;
  setup.prompt_text = std::move(prepared.prompt.text);
  if (request.echo && setup.prompt_text.empty() && context_.tokenizer != nullptr) {
    setup.prompt_text = context_.tokenizer->decode(prepared.prompt.tokens, request.skip_special_tokens);
  }
  setup.prompt = std::move(prepared.prompt.tokens);
  setup.cancel = [engine = engine_.get(), id = request.id] { engine->cancel(id); };
  setup.finish_sequence = [engine = engine_.get(), id = request.id](int index) {
    engine->finish_sequence(id, index);
  };
  setup.metrics = metrics_;

  switch (engine_->submit(std::move(submission))) {
    case engine::SubmitResult::kAccepted: break;
    case engine::SubmitResult::kQueueFull:
      fail(Code::kResourceExhausted, "the queue of model '{}' is full ({} requests wait): try again later",
           info_.name, engine_->options().max_queue);
    case engine::SubmitResult::kStopped:
      fail(Code::kUnavailable, "model '{}' is shutting down", info_.name);
  }
  return std::make_unique<Generation>(std::move(setup), std::move(queue));
}

TokenizeResult LlmModel::tokenize(const Prompt& prompt, bool add_special_tokens, bool with_texts) const {
  bool is_chat = std::holds_alternative<ChatPrompt>(prompt);
  PreparedPrompt prepared = prepare_prompt(prompt, is_chat ? "messages" : "prompt", add_special_tokens, context_);
  return describe_tokens(std::move(prepared.tokens), context_.tokenizer, with_texts);
}

std::string LlmModel::detokenize(const std::vector<int32_t>& tokens) const {
  if (context_.tokenizer == nullptr) fail(Code::kFailedPrecondition, "model '{}' has no tokenizer", info_.name);
  for (int32_t token : tokens) {
    if (token < 0 || token >= context_.vocab_size) {
      fail_param("tokens", "'tokens' has token id {}, the vocabulary is [0, {})", token, context_.vocab_size);
    }
  }
  return context_.tokenizer->decode(tokens, false);
}

ModelStats LlmModel::stats() const {
  engine::EngineStats from = engine_->stats();
  ModelStats stats;
  stats.num_running = from.num_running;
  stats.num_waiting = from.num_waiting;
  stats.num_pages = from.num_pages;
  stats.kv_usage = from.num_pages > 0
                       ? 1.0 - static_cast<double>(from.num_free_pages) / static_cast<double>(from.num_pages)
                       : 0;
  stats.num_preemptions = from.num_preemptions;
  stats.prompt_tokens = from.prompt_tokens;
  stats.generation_tokens = from.generation_tokens;
  stats.prefix_cache_queries = from.prefix_cache_queries;
  stats.prefix_cache_hits = from.prefix_cache_hits;
  return stats;
}

bool LlmModel::healthy() const { return engine_->healthy(); }

void LlmModel::log_throughput(int interval_seconds) {
  ModelStats before = stats();
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, std::chrono::seconds(interval_seconds), [&] { return stopping_; })) {
    ModelStats now = stats();
    int64_t prompt = now.prompt_tokens - before.prompt_tokens;
    int64_t generated = now.generation_tokens - before.generation_tokens;
    int64_t queries = now.prefix_cache_queries - before.prefix_cache_queries;
    int64_t hits = now.prefix_cache_hits - before.prefix_cache_hits;
    before = now;
    if (prompt == 0 && generated == 0 && now.num_running == 0 && now.num_waiting == 0) continue;
    LOG(info, "model {}: prompt {:.1f} tokens/s, generation {:.1f} tokens/s, running {}, waiting {}, KV {:.1f}%, "
        "prefix cache hits {:.1f}%",
        info_.name, static_cast<double>(prompt) / interval_seconds, static_cast<double>(generated) / interval_seconds,
        now.num_running, now.num_waiting, now.kv_usage * 100,
        queries > 0 ? 100.0 * static_cast<double>(hits) / static_cast<double>(queries) : 0.0);
  }
}

}  // namespace sluice::serve
