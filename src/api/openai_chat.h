// /v1/chat/completions: its JSON to a native request, and back. Pure functions; no sockets, no engine.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/openai_common.h"

namespace sluice::api {

struct ChatRequest {
  OpenAiAnswer answer;
  std::string role;        // of the reply: "assistant", or that of the message which is continued
  std::string echo_text;   // with echo: the last message's text, if that message is continued
  serve::GenerateRequest generate;
};

// `request_id_header`: X-Request-Id, or empty. Throws Error naming the field.
ChatRequest parse_chat(const json::object& body, const OpenAiLimits& limits, std::string_view request_id_header);

// The messages and everything else that the template sees; /tokenize takes these fields too.
serve::ChatPrompt parse_chat_prompt(const json::object& body, const OpenAiLimits& limits);

json::object format_chat(const ChatRequest& request, const std::vector<Choice>& choices, const EchoedPrompt& prompt,
                         const serve::Usage& usage);

// The first event of a choice: its role (and with echo the text that is continued).
json::object format_chat_role(const ChatRequest& request, int choice_index, const EchoedPrompt& prompt);
json::object format_chat_chunk(const ChatRequest& request, const serve::Chunk& chunk);
// The last event with include_usage: no choices.
json::object format_chat_usage(const ChatRequest& request, const serve::Usage& usage);

}  // namespace sluice::api
