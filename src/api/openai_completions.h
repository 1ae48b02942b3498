// /v1/completions: its JSON to native requests, and back. Pure functions; no sockets, no engine.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/openai_common.h"

namespace sluice::api {

struct CompletionRequest {
  OpenAiAnswer answer;
  std::vector<serve::GenerateRequest> prompts;  // one a prompt; each brings n choices
};

// `request_id_header`: X-Request-Id, or empty. Throws Error naming the field.
CompletionRequest parse_completion(const json::object& body, const OpenAiLimits& limits,
                                   std::string_view request_id_header);

// `choices`: n for each prompt, in order.
json::object format_completion(const OpenAiAnswer& answer, const std::vector<Choice>& choices,
                               const std::vector<EchoedPrompt>& prompts, const serve::Usage& usage);

// Where a choice's stream stands.
struct CompletionStream {
  bool has_begun = false;
  int64_t text_offset = 0;  // characters of the tokens so far
};

// One event of a stream. `prompt` is used for the first chunk of a choice.
json::object format_completion_chunk(const OpenAiAnswer& answer, int choice_index, const serve::Chunk& chunk,
                                     const EchoedPrompt& prompt, CompletionStream& stream);

// The last event with include_usage: no choices.
json::object format_completion_usage(const OpenAiAnswer& answer, const serve::Usage& usage);

}  // namespace sluice::api
