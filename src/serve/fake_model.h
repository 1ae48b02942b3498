// For tests: a serve::Model that answers at once and always the same, and a tokenizer whose tokens are bytes.
// Everything between the request and the engine is the real thing; only the engine is not there.
//
// The reply to a prompt is "Hello!", except when the prompt contains one of these words:
//   echo-me   the prompt's own bytes        emoji     "é🙂!"
//   slow      one 'z' a millisecond until max_tokens or cancelled
//   broken    an error after two tokens     full      the queue is full
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "serve/generation.h"
#include "serve/model.h"
#include "serve/prepare.h"

namespace sluice::serve {

class ByteTokenizer : public text::Tokenizer {
 public:
  static constexpr int32_t kBos = 256, kEos = 257;

  std::vector<int32_t> encode(std::string_view text, const text::EncodeOptions& options = {}) const override {
    std::vector<int32_t> ids;
    if (options.add_special) ids.push_back(kBos);
    for (char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override {
    std::string text;
    for (int32_t id : ids) {
      if (!is_special(id) || !skip_special) text += token_bytes(id);
    }
    return text;
  }
  std::string token_bytes(int32_t id) const override {
    return id < 256 ? std::string(1, static_cast<char>(id)) : token_text(id);
  }
  std::string token_text(int32_t id) const override {
    return id == kBos ? "<s>" : id == kEos ? "</s>" : id < 256 ? std::string(1, static_cast<char>(id)) : "";
  }
  std::optional<int32_t> find_token(std::string_view text) const override {
    if (text.size() == 1) return static_cast<unsigned char>(text[0]);
    return std::nullopt;
  }
  int64_t vocab_size() const override { return 258; }
  bool is_special(int32_t id) const override { return id >= 256; }
  const text::SpecialIds& special_ids() const override { return special_ids_; }
  bool adds_bos() const override { return true; }
  bool strips_leading_space() const override { return false; }
  std::string description() const override { return "bytes"; }

 private:
  text::SpecialIds special_ids_{.bos = kBos, .eos = kEos};
};

class FakeModel : public Model {
 public:
  explicit FakeModel(std::string name = "fake", Metrics* metrics = nullptr) {
    info_.name = std::move(name);
    info_.path = "/models/fake";
    info_.created = 1;
    info_.max_model_len = 512;
    context_.tokenizer = &tokenizer_;
    context_.max_model_len = info_.max_model_len;
    context_.vocab_size = tokenizer_.vocab_size();
    if (metrics != nullptr) metrics_ = &metrics->for_model(info_.name);
  }
  ~FakeModel() override {
    stopping_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

  const ModelInfo& info() const override { return info_; }
  bool healthy() const override { return healthy_; }
  std::string detokenize(const std::vector<int32_t>& tokens) const override {
    return tokenizer_.decode(tokens, false);
  }
  ModelStats stats() const override {
    ModelStats stats;
    stats.num_running = num_running_;
    stats.generation_tokens = generation_tokens_;
    return stats;
  }
  TokenizeResult tokenize(const Prompt& prompt, bool add_special_tokens, bool with_texts) const override {
    TokenizeResult result;
    result.tokens = prepare_prompt(to_plain(prompt), "prompt", add_special_tokens, context_).tokens;
    for (int32_t token : result.tokens) {
      if (with_texts) result.token_texts.push_back(tokenizer_.token_text(token));
    }
    return result;
  }

  std::unique_ptr<Generation> generate(GenerateRequest request, Wake wake) override {
    request.prompt = to_plain(request.prompt);
    PreparedRequest prepared = prepare(request, context_);
    std::string text =
        prepared.prompt.text.empty() ? tokenizer_.decode(prepared.prompt.tokens, true) : prepared.prompt.text;
    auto contains = [&](const char* word) { return text.find(word) != std::string::npos; };
    if (contains("full"))
      fail(Code::kResourceExhausted, "the queue of model '{}' is full: try again later", info_.name);
    std::string reply = contains("echo-me") ? text : contains("emoji") ? "\u00e9\U0001f642!" : "Hello!";

    auto queue = std::make_shared<EventQueue>(std::move(wake));
    auto cancelled = std::make_shared<std::atomic<bool>>(false);
    GenerationSetup setup;
    setup.id = request.id;
    setup.tokenizer = &tokenizer_;
    setup.prompt = prepared.prompt.tokens;
    setup.prompt_text = text;
    setup.n = request.n;
    setup.best_of = prepared.best_of;
    setup.detokenizer = {.skip_special = request.skip_special_tokens,
                         .stop = request.stop,
                         .include_stop = request.include_stop,
                         .min_tokens = prepared.sampling.min_tokens};
    setup.wants_logprobs = request.sampling.num_logprobs != kNoLogprobs;
    setup.max_tokens = prepared.sampling.max_tokens;
    setup.arrival_us = request.arrival_us != 0 ? request.arrival_us : monotonic_us();
    setup.deadline_us = request.deadline_us;
    setup.cancel = [this, cancelled] {
      if (!cancelled->exchange(true)) ++num_cancelled_;
    };
    setup.finish_sequence = [this](int) { ++num_finished_by_stop_; };
    setup.metrics = metrics_;
    {
      std::lock_guard lock(mutex_);
      last_sampling_ = prepared.sampling;
    }
    if (contains("slow")) {
      std::lock_guard lock(mutex_);
      threads_.emplace_back([this, queue, cancelled, max_tokens = prepared.sampling.max_tokens] {
        ++num_running_;
        for (int64_t i = 0; i < max_tokens && !*cancelled && !stopping_; ++i) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          bool is_last = i + 1 == max_tokens;
          engine::Event event;
          event.tokens = {'z'};
          event.is_last = is_last;
          if (is_last) event.finish_reason = FinishReason::kLength;
          queue->push(std::move(event));
          ++generation_tokens_;
        }
        --num_running_;
      });
    } else {
      push_all(*queue, prepared, reply, contains("broken"));
    }
    return std::make_unique<Generation>(std::move(setup), std::move(queue));
  }

  void set_healthy(bool healthy) { healthy_ = healthy; }
  int num_cancelled() const { return num_cancelled_; }
  int num_running() const { return num_running_; }
  int num_finished_by_stop() const { return num_finished_by_stop_; }
  SamplingParams last_sampling() const {
    std::lock_guard lock(mutex_);
    return last_sampling_;
  }

 private:
  // "user: text\n ... assistant:" instead of a template.
  static Prompt to_plain(const Prompt& prompt) {
    const auto* chat = std::get_if<ChatPrompt>(&prompt);
    if (chat == nullptr) return prompt;
    std::string text;
    for (const json::value& message : chat->messages) {
      if (!text.empty()) text += '\n';
      text += std::string(message.at("role").as_string()) + ": " + std::string(message.at("content").as_string());
    }
    return chat->add_generation_prompt ? text + "\nassistant:" : text;
  }

  static engine::PositionLogprobs logprobs_of(int32_t token, float logprob, int num_top) {
    engine::PositionLogprobs position;
    position.chosen = {token, logprob, 1};
    for (int i = 0; i < std::min(num_top, 258); ++i) {
      position.top.push_back({(token + i) % 258, logprob - static_cast<float>(i), i + 1});
    }
    return position;
  }

  void push_all(EventQueue& queue, const PreparedRequest& prepared, const std::string& reply, bool breaks) const {
    const SamplingParams& sampling = prepared.sampling;
    std::vector<int32_t> tokens = tokenizer_.encode(reply, {.add_special = false});
    tokens.push_back(ByteTokenizer::kEos);
    bool ends = static_cast<int64_t>(tokens.size()) <= sampling.max_tokens;
    if (!ends) tokens.resize(static_cast<size_t>(sampling.max_tokens));
    std::shared_ptr<std::vector<engine::PositionLogprobs>> prompt_logprobs;
    if (sampling.num_prompt_logprobs != kNoLogprobs) {
      prompt_logprobs = std::make_shared<std::vector<engine::PositionLogprobs>>();
      for (int32_t token : prepared.prompt.tokens) {
        bool is_first = prompt_logprobs->empty();
        prompt_logprobs->push_back(logprobs_of(token, is_first ? std::numeric_limits<float>::quiet_NaN() : -0.5f,
                                               is_first ? 0 : sampling.num_prompt_logprobs));
      }
    }
    size_t num_steps = std::max<size_t>(1, tokens.size());
    for (size_t step = 0; step < num_steps; ++step) {
      for (int s = 0; s < prepared.best_of; ++s) {
        engine::Event event;
        event.sequence_index = s;
        event.num_cached_tokens = 0;
        if (step == 0 && s == 0) event.prompt_logprobs = prompt_logprobs;
        if (breaks && step == 2) {
          event.finish_reason = FinishReason::kError;
          event.error = Error(Code::kInternal, "the fake engine broke");
          event.is_last = true;
          queue.push(std::move(event));
          return;
        }
        if (step < tokens.size()) {
          event.tokens = {tokens[step]};
          if (sampling.num_logprobs != kNoLogprobs) {
            event.logprobs.push_back(
                logprobs_of(tokens[step], -1.0f / static_cast<float>(s + 1), sampling.num_logprobs));
          }
        }
        if (step + 1 == num_steps) {
          event.finish_reason = ends ? FinishReason::kStop : FinishReason::kLength;
          if (ends) event.stop_token = ByteTokenizer::kEos;
          event.stopped_by_end_token = ends;
          event.is_last = s + 1 == prepared.best_of;
        }
        queue.push(std::move(event));
      }
    }
  }

  ByteTokenizer tokenizer_;
  ModelInfo info_;
  PrepareContext context_;
  ModelMetrics* metrics_ = nullptr;
  std::atomic<bool> healthy_{true}, stopping_{false};
  std::atomic<int> num_cancelled_{0}, num_running_{0}, num_finished_by_stop_{0};
  std::atomic<int64_t> generation_tokens_{0};
  mutable std::mutex mutex_;
  std::vector<std::thread> threads_;
  SamplingParams last_sampling_;
};

}  // namespace sluice::serve
