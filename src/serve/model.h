// A served model, with no protocol in sight: what every dialect in api/ translates to and from.
//
// A request names its prompt (text, token ids or chat messages) and how to sample; what comes back is a Generation
// (serve/generation.h) that hands out text. Models are shared: the repository and every running request hold one. All
// functions may be called from any thread, do textual work on the calling thread, and never wait for the model. They
// throw Error for a request that cannot be served, naming the field at fault by its OpenAI name.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "engine/request.h"

namespace sluice::serve {

using engine::FinishReason;
using engine::SamplingParams;
inline constexpr int kNoLogprobs = engine::kNoLogprobs;
inline constexpr int kAllLogprobs = engine::kAllLogprobs;

class Generation;

// Called when a Generation has something new; from any thread, must return at once.
using Wake = std::function<void()>;

struct ChatPrompt {
  json::array messages;              // {role, content: string, ...}
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  json::value tools;                 // null or a list
  json::value documents;             // null or a list
  json::object extra;                // chat_template_kwargs
  std::optional<std::string> chat_template;  // instead of the model's
};

using Prompt = std::variant<std::string, std::vector<int32_t>, ChatPrompt>;

enum class TruncationSide { kLeft, kRight };  // the side that is cut off

struct GenerateRequest {
  std::string id;                    // unique; shown in logs
  Prompt prompt;
  std::string prompt_param = "prompt";  // the field that errors about the prompt name
  bool add_special_tokens = true;
  std::optional<int64_t> truncate_prompt_tokens;  // keep this many; -1: as many as the model takes
  TruncationSide truncation_side = TruncationSide::kLeft;

  // What the request says about these; absent ones come from the model's generation defaults, then from
  // SamplingParams.
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k, max_tokens;
  // A max_tokens that prompt and model leave no room for is an error naming this field; or, if asked for, lowered.
  std::string max_tokens_param = "max_tokens";
  bool lowers_max_tokens = false;
  // Everything else of the sampling. The fields above are overwritten.
  SamplingParams sampling;
  std::vector<std::string> bad_words;

  std::vector<std::string> stop;
  bool include_stop = false;         // the matched stop string or token stays in the text
  bool skip_special_tokens = true;
  int n = 1;
  int best_of = 0;    // 0: n. More than n: the n with the highest log probability per token are returned
  bool echo = false;  // the prompt is wanted back (with its log probabilities if log probabilities are)
  int64_t priority = 0;
  std::string cache_salt;
  int64_t arrival_us = 0;            // monotonic; 0: now
  int64_t deadline_us = 0;           // monotonic; the request ends with kDeadlineExceeded then; 0: none
};

struct TokenizeResult {
  std::vector<int32_t> tokens;
  std::vector<std::string> token_texts;  // as the vocabulary writes them; only if wanted
};

struct ModelInfo {
  std::string name;                  // the first served name; the label of its metrics
  std::string path;
  int64_t created = 0;               // unix seconds
  int64_t max_model_len = 0;
  int64_t num_parameters = 0;        // 0: not known
  int64_t weight_bytes = 0;
  bool priority_scheduling = false;
};

struct ModelStats {
  int64_t num_running = 0, num_waiting = 0;
  double kv_usage = 0;               // [0, 1]
  int64_t num_pages = 0;
  int64_t num_preemptions = 0;
  int64_t prompt_tokens = 0, generation_tokens = 0;
  int64_t prefix_cache_queries = 0, prefix_cache_hits = 0;  // tokens
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelInfo& info() const = 0;
  // Tokenises, checks and submits. kResourceExhausted when the queue is full. `wake` may be empty: then use
  // Generation::next(), which waits.
  virtual std::unique_ptr<Generation> generate(GenerateRequest request, Wake wake) = 0;
  virtual TokenizeResult tokenize(const Prompt& prompt, bool add_special_tokens, bool with_texts) const = 0;
  virtual std::string detokenize(const std::vector<int32_t>& tokens) const = 0;
  virtual ModelStats stats() const = 0;
  virtual bool healthy() const = 0;
};

}  // namespace sluice::serve
