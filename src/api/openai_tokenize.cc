// /tokenize and /detokenize, in vLLM's shape: a text or messages to token ids, and ids to text.
#include "api/errors.h"
#include "api/openai.h"
#include "api/openai_chat.h"
#include "api/utf8.h"
#include "base/error.h"

namespace sluice::api {

HttpReply serve_tokenize(OpenAiContext& context, const HttpRequest& request) {
  json::object body = parse_body(request);
  std::shared_ptr<serve::Model> model = context.repository.get(json::read_string(body, "model").value_or(""));
  bool wants_texts = json::read_bool(body, "return_token_strs").value_or(false);
  std::optional<bool> adds_special = json::read_bool(body, "add_special_tokens");
  serve::TokenizeResult result;
  if (json::find(body, "messages") != nullptr) {
    if (json::find(body, "tools") != nullptr) fail_param("tools", "'tools' is not supported by this server");
    result = model->tokenize(parse_chat_prompt(body, context.limits), adds_special.value_or(false), wants_texts);
  } else {
    std::optional<std::string> prompt = json::read_string(body, "prompt");
    if (!prompt) fail_param("prompt", "'prompt' or 'messages' is required");
    result = model->tokenize(*prompt, adds_special.value_or(true), wants_texts);
  }
  json::object reply;
  reply["count"] = result.tokens.size();
  reply["max_model_len"] = model->info().max_model_len;
  reply["tokens"] = token_ids_json(result.tokens);
  reply["token_strs"] = nullptr;
  if (wants_texts) {
    json::array texts;
    for (const std::string& text : result.token_texts) texts.push_back(json::value(to_valid_utf8(text)));
    reply["token_strs"] = std::move(texts);
  }
  return json_reply(reply);
}

HttpReply serve_detokenize(OpenAiContext& context, const HttpRequest& request) {
  json::object body = parse_body(request);
  std::shared_ptr<serve::Model> model = context.repository.get(json::read_string(body, "model").value_or(""));
  if (json::find(body, "tokens") == nullptr) fail_param("tokens", "'tokens' is required");
  std::vector<int32_t> tokens;
  for (int64_t token : json::read_ints(body, "tokens", size_t{1} << 24)) {
    if (token < 0 || token > INT32_MAX) fail_param("tokens", "'tokens' has {}, which is no token id", token);
    tokens.push_back(static_cast<int32_t>(token));
  }
  return json_reply(json::object{{"prompt", to_valid_utf8(model->detokenize(tokens))}});
}

}  // namespace sluice::api
