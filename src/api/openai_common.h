// What OpenAI's completions and chat have in common: sampling fields in, log probabilities and usage out. Pure
// functions over JSON; no sockets, no engine.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "serve/generation.h"
#include "serve/model.h"

namespace sluice::api {

// What the operator allows; from flags.
struct OpenAiLimits {
  int64_t max_logprobs = 20;        // -1: no limit
  int64_t max_n = 128;
  size_t max_prompts = 1024;        // of one completion request
  size_t max_stop_strings = 64;
  bool trust_request_chat_template = false;
  bool enable_prompt_tokens_details = false;
};

// How the answer is to look; the part of a request that the model does not see.
struct OpenAiAnswer {
  std::string id;                   // "chatcmpl-..."
  std::string model;                // the name that was asked for
  int64_t created = 0;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool prompt_tokens_details = false;
  bool echo = false;
  bool tokens_as_ids = false;       // return_tokens_as_token_ids
  bool return_token_ids = false;
  bool return_prompt_text = false;
  bool wants_logprobs = false;
  bool wants_prompt_logprobs = false;
};

// What a reply may say about its prompt.
struct EchoedPrompt {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<serve::TokenLogprobs> logprobs;
};

// One choice, gathered from its chunks.
struct Choice {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<serve::TokenLogprobs> logprobs;
  serve::FinishReason finish_reason = serve::FinishReason::kNone;
  serve::StopReason stop_reason;
  void add(serve::Chunk&& chunk);
};

// Calls `read`; an Error of it names its field within `outer`.
template <typename Read>
auto within(std::string_view outer, Read read) {
  try {
    return read();
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("in '{}': {}", outer, error.message()),
                fmt::format("{}.{}", outer, error.param()));
  }
}

// Throws Error naming the first field that is there (not null, not its harmless value) and not supported: those that
// both requests have, then `fields`.
void reject_unsupported(const json::object& body, std::initializer_list<std::string_view> fields);
// Names, at debug, the fields that neither both requests know nor this one by its `own`.
void log_unknown_fields(const json::object& body, std::initializer_list<std::string_view> own);

// The fields both requests share, except max_tokens and logprobs, into `request` and `answer`.
void parse_common(const json::object& body, const OpenAiLimits& limits, serve::GenerateRequest& request,
                  OpenAiAnswer& answer);
// -1: everything, which --max-logprobs must allow.
int parse_num_logprobs(const json::object& body, std::string_view field, const OpenAiLimits& limits);
// The request's own id (`request_id`), else the header's, else 32 random hex digits.
std::string choose_request_id(const json::object& body, std::string_view header);
std::string random_id();

const char* finish_reason_name(serve::FinishReason reason);
json::value finish_reason_json(serve::FinishReason reason);
json::value stop_reason_json(const serve::StopReason& reason);
json::value token_ids_json(const std::vector<int32_t>& tokens);
json::object usage_json(const serve::Usage& usage, const OpenAiAnswer& answer);
// vLLM's prompt_logprobs: a list of {"id": {logprob, rank, decoded_token}}, the first null.
json::value prompt_logprobs_json(const std::vector<serve::TokenLogprobs>& positions, const OpenAiAnswer& answer);
std::string token_string(const serve::TokenText& token, const OpenAiAnswer& answer);
// JSON has no infinities: what is impossible gets -9999, as vLLM does.
double finite_logprob(float logprob);
// {id, object, created, model, system_fingerprint}
json::object answer_head(const OpenAiAnswer& answer, const char* object);

}  // namespace sluice::api
