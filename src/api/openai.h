// OpenAI's endpoints: each parses its JSON, asks the repository for the model, starts generations and turns what they
// bring into a reply. The translating itself is in openai_completions.cc, openai_chat.cc and openai_tokenize.cc.
#pragma once

#include <atomic>
#include <cstdint>

#include "api/http.h"
#include "api/openai_common.h"
#include "serve/repository.h"

namespace sluice::api {

// What the handlers need; owned by the Server, which outlives every reply.
struct OpenAiContext {
  serve::Repository& repository;
  OpenAiLimits limits;
  int64_t request_timeout_ms = 0;        // 0: none
  std::atomic<int64_t> num_generating{0};  // requests; what /load shows
};

HttpReply serve_models(OpenAiContext& context);
HttpReply serve_model(OpenAiContext& context, const std::string& name);
HttpReply serve_completion(OpenAiContext& context, const HttpRequest& request, Wake wake);
HttpReply serve_chat(OpenAiContext& context, const HttpRequest& request, Wake wake);
HttpReply serve_tokenize(OpenAiContext& context, const HttpRequest& request);
HttpReply serve_detokenize(OpenAiContext& context, const HttpRequest& request);

// The body as a JSON object; throws Error for anything else.
json::object parse_body(const HttpRequest& request);
HttpReply json_reply(const json::value& body);

}  // namespace sluice::api
