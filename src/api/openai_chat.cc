#include "api/openai_chat.h"

#include "api/utf8.h"
#include "base/error.h"

namespace sluice::api {
namespace {

constexpr size_t kMessagesMax = 1 << 16;

// The text of a message's content. Parts of text are joined by line ends, as templates made for strings expect.
std::string parse_content(const json::value* content, const std::string& where) {
  if (content == nullptr) return "";
  if (content->is_string()) return std::string(content->get_string());
  if (!content->is_array()) {
    fail_param(where + ".content", "'{}.content' must be a string or a list of parts, not {}", where,
               json::describe(*content));
  }
  std::string text;
  size_t index = 0;
  for (const json::value& part : content->get_array()) {
    std::string part_name = fmt::format("{}.content[{}]", where, index);
    if (index++ > 0) text += '\n';
    if (part.is_string()) {
      text += std::string_view(part.get_string());
      continue;
    }
    if (!part.is_object()) fail_param(part_name, "'{}' must be an object, not {}", part_name, json::describe(part));
    const json::object& fields = part.get_object();
    std::string type = within(part_name, [&] { return json::read_string(fields, "type").value_or("text"); });
    const char* field = type == "text" || type == "input_text" || type == "output_text" ? "text"
                        : type == "refusal"                                             ? "refusal"
                                                                                        : nullptr;
    if (field == nullptr) {
      fail_param(part_name, "'{}' is of type '{}', which this model does not take: only text", part_name, type);
    }
    const json::value* value = json::find(fields, field);
    if (value == nullptr || !value->is_string())
      fail_param(part_name, "'{}' must have a string '{}'", part_name, field);
    text += std::string_view(value->get_string());
  }
  return text;
}

// Templates want the arguments of a call as an object; clients send them as JSON in a string.
void parse_call_arguments(json::object& message) {
  json::value* calls = message.if_contains("tool_calls");
  if (calls == nullptr || !calls->is_array()) return;
  for (json::value& call : calls->get_array()) {
    json::object* object = call.if_object();
    json::value* function = object != nullptr ? object->if_contains("function") : nullptr;
    if (function == nullptr || !function->is_object()) continue;
    json::value* arguments = function->get_object().if_contains("arguments");
    if (arguments == nullptr || !arguments->is_string()) continue;
    std::string text(arguments->get_string());
    try {
      *arguments = text.empty() ? json::value(json::object()) : json::parse(text);
    } catch (const Error&) {
      // Not JSON: the template gets the string.
    }
  }
}

json::object parse_message(const json::value& value, size_t index) {
  std::string where = fmt::format("messages[{}]", index);
  if (!value.is_object()) fail_param(where, "'{}' must be an object, not {}", where, json::describe(value));
  json::object message = value.get_object();
  const json::value* role = json::find(message, "role");
  if (role == nullptr || !role->is_string() || role->get_string().empty()) {
    fail_param(where + ".role", "'{}.role' must be a string such as 'user'", where);
  }
  std::string content = parse_content(json::find(message, "content"), where);
  if (json::find(message, "content") == nullptr && role->get_string() == "user") {
    fail_param(where + ".content", "'{}.content' is required", where);
  }
  message["content"] = content;
  // Two names for the same thing; templates ask for either.
  const json::value* reasoning = json::find(message, "reasoning");
  if (reasoning == nullptr) reasoning = json::find(message, "reasoning_content");
  if (reasoning != nullptr) {
    json::value copy = *reasoning;
    message["reasoning"] = copy;
    message["reasoning_content"] = copy;
  }
  parse_call_arguments(message);
  return message;
}

json::array parse_messages(const json::object& body) {
  const json::value* messages = json::find(body, "messages");
  if (messages == nullptr) fail_param("messages", "'messages' is required");
  if (!messages->is_array()) fail_param("messages", "'messages' must be a list, not {}", json::describe(*messages));
  const json::array& list = messages->get_array();
  if (list.empty()) fail_param("messages", "'messages' is empty");
  if (list.size() > kMessagesMax)
    fail_param("messages", "'messages' has {} messages, the limit is {}", list.size(), kMessagesMax);
  json::array parsed;
  for (size_t i = 0; i < list.size(); ++i) parsed.push_back(parse_message(list[i], i));
  return parsed;
}

void reject_tools(const json::object& body) {
  for (const char* field : {"tools", "functions"}) {
    if (json::find(body, field) != nullptr) fail_param(field, "'{}' is not supported by this server", field);
  }
  for (const char* field : {"tool_choice", "function_call"}) {
    const json::value* choice = json::find(body, field);
    if (choice != nullptr && !(choice->is_string() && choice->get_string() == "none")) {
      fail_param(field, "'{}' is not supported by this server, except 'none'", field);
    }
  }
  const json::value* modalities = json::find(body, "modalities");
  if (modalities == nullptr) return;
  for (const std::string& modality : json::read_strings(body, "modalities", 16)) {
    if (modality != "text") fail_param("modalities", "'modalities' has '{}', this server only makes text", modality);
  }
}

json::value chat_logprobs(const std::vector<serve::TokenLogprobs>& positions, const OpenAiAnswer& answer) {
  auto describe = [&](const serve::TokenText& token) {
    json::array bytes;
    for (char c : token.bytes) bytes.push_back(static_cast<unsigned char>(c));
    return json::object{{"token", token_string(token, answer)},
                        {"logprob", finite_logprob(token.logprob)},
                        {"bytes", std::move(bytes)}};
  };
  json::array content;
  for (const serve::TokenLogprobs& position : positions) {
    json::object item = describe(position.chosen);
    json::array top;
    for (const serve::TokenText& token : position.top) top.push_back(describe(token));
    item["top_logprobs"] = std::move(top);
    content.push_back(std::move(item));
  }
  return json::object{{"content", std::move(content)}};
}

json::object chunk_with(const ChatRequest& request, int index, json::object delta, json::value logprobs,
                        const serve::Chunk* chunk) {
  json::object choice;
  choice["index"] = index;
  choice["delta"] = std::move(delta);
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = chunk != nullptr ? finish_reason_json(chunk->finish_reason) : json::value(nullptr);
  if (chunk != nullptr && chunk->finish_reason != serve::FinishReason::kNone) {
    choice["stop_reason"] = stop_reason_json(chunk->stop_reason);
  }
  choice["token_ids"] = chunk != nullptr && request.answer.return_token_ids ? token_ids_json(chunk->tokens)
                                                                            : json::value(nullptr);
  json::object object = answer_head(request.answer, "chat.completion.chunk");
  object["choices"] = json::array{std::move(choice)};
  return object;
}

}  // namespace

serve::ChatPrompt parse_chat_prompt(const json::object& body, const OpenAiLimits& limits) {
  serve::ChatPrompt prompt;
  prompt.messages = parse_messages(body);
  prompt.continue_final_message = json::read_bool(body, "continue_final_message").value_or(false);
  std::optional<bool> adds_prompt = json::read_bool(body, "add_generation_prompt");
  if (prompt.continue_final_message && adds_prompt.value_or(false)) {
    fail_param("continue_final_message", "'continue_final_message' and 'add_generation_prompt' exclude each other");
  }
  prompt.add_generation_prompt = adds_prompt.value_or(!prompt.continue_final_message);
  if (const json::value* documents = json::find(body, "documents")) {
    if (!documents->is_array())
      fail_param("documents", "'documents' must be a list, not {}", json::describe(*documents));
    prompt.documents = *documents;
  }
  if (const json::value* extra = json::find(body, "chat_template_kwargs")) {
    if (!extra->is_object()) {
      fail_param("chat_template_kwargs", "'chat_template_kwargs' must be an object, not {}", json::describe(*extra));
    }
    prompt.extra = extra->get_object();
  }
  if (std::optional<std::string> effort = json::read_string(body, "reasoning_effort")) {
    prompt.extra.emplace("reasoning_effort", *effort);
  }
  prompt.chat_template = json::read_string(body, "chat_template");
  if (prompt.chat_template && !limits.trust_request_chat_template) {
    fail_param(
        "chat_template",
        "'chat_template' is only taken from requests when the server runs with --trust-request-chat-template");
  }
  return prompt;
}

ChatRequest parse_chat(const json::object& body, const OpenAiLimits& limits, std::string_view request_id_header) {
  reject_tools(body);
  reject_unsupported(body, {"audio", "media_io_kwargs", "mm_processor_kwargs", "prediction", "web_search_options"});
  log_unknown_fields(body, {"messages", "top_logprobs", "max_completion_tokens", "add_generation_prompt",
                            "continue_final_message", "chat_template", "chat_template_kwargs", "documents",
                            "reasoning_effort", "include_reasoning", "metadata", "store", "service_tier",
                            "parallel_tool_calls", "tool_choice", "modalities", "return_prompt_text"});
  ChatRequest request;
  serve::GenerateRequest& generate = request.generate;
  parse_common(body, limits, generate, request.answer);
  request.answer.id = "chatcmpl-" + choose_request_id(body, request_id_header);
  generate.id = request.answer.id;
  generate.prompt_param = "messages";
  generate.add_special_tokens = json::read_bool(body, "add_special_tokens").value_or(false);

  std::optional<int64_t> limit = json::read_int(body, "max_completion_tokens", 1, INT32_MAX);
  std::optional<int64_t> old_limit = json::read_int(body, "max_tokens", 1, INT32_MAX);
  generate.max_tokens = limit ? limit : old_limit;
  if (limit) generate.max_tokens_param = "max_completion_tokens";
  request.answer.return_prompt_text = json::read_bool(body, "return_prompt_text").value_or(false);
  json::read_bool(body, "include_reasoning");
  json::read_bool(body, "parallel_tool_calls");

  request.answer.wants_logprobs = json::read_bool(body, "logprobs").value_or(false);
  int num_top = parse_num_logprobs(body, "top_logprobs", limits);
  if (num_top != serve::kNoLogprobs && num_top != 0 && !request.answer.wants_logprobs) {
    fail_param("top_logprobs", "'top_logprobs' needs \"logprobs\": true");
  }
  if (request.answer.wants_logprobs) generate.sampling.num_logprobs = num_top == serve::kNoLogprobs ? 0 : num_top;

  serve::ChatPrompt prompt = parse_chat_prompt(body, limits);
  const json::object& last = prompt.messages.back().get_object();
  request.role = prompt.add_generation_prompt ? "assistant" : std::string(last.at("role").get_string());
  if (request.answer.echo && last.at("role").get_string() == request.role) {
    request.echo_text = std::string(last.at("content").get_string());
  }
  generate.prompt = std::move(prompt);
  return request;
}

json::object format_chat(const ChatRequest& request, const std::vector<Choice>& choices, const EchoedPrompt& prompt,
                         const serve::Usage& usage) {
  const OpenAiAnswer& answer = request.answer;
  json::object object = answer_head(answer, "chat.completion");
  json::array list;
  for (size_t i = 0; i < choices.size(); ++i) {
    const Choice& choice = choices[i];
    json::object message;
    message["role"] = request.role;
    message["content"] = to_valid_utf8(request.echo_text + choice.text);
    for (const char* field : {"refusal", "annotations", "audio", "function_call", "reasoning"})
      message[field] = nullptr;
    json::object item;
    item["index"] = i;
    item["message"] = std::move(message);
    item["logprobs"] = answer.wants_logprobs ? chat_logprobs(choice.logprobs, answer) : json::value(nullptr);
    item["finish_reason"] = finish_reason_json(choice.finish_reason);
    item["stop_reason"] = stop_reason_json(choice.stop_reason);
    item["token_ids"] = answer.return_token_ids ? token_ids_json(choice.tokens) : json::value(nullptr);
    list.push_back(std::move(item));
  }
  object["choices"] = std::move(list);
  object["service_tier"] = nullptr;
  object["usage"] = usage_json(usage, answer);
  object["prompt_logprobs"] =
      answer.wants_prompt_logprobs ? prompt_logprobs_json(prompt.logprobs, answer) : json::value(nullptr);
  object["prompt_token_ids"] = answer.return_token_ids ? token_ids_json(prompt.tokens) : json::value(nullptr);
  if (answer.return_prompt_text) object["prompt_text"] = to_valid_utf8(prompt.text);
  object["kv_transfer_params"] = nullptr;
  return object;
}

json::object format_chat_role(const ChatRequest& request, int choice_index, const EchoedPrompt& prompt) {
  json::object delta{{"role", request.role}, {"content", to_valid_utf8(request.echo_text)}};
  json::object object = chunk_with(request, choice_index, std::move(delta), nullptr, nullptr);
  if (request.answer.return_token_ids) object["prompt_token_ids"] = token_ids_json(prompt.tokens);
  if (request.answer.return_prompt_text) object["prompt_text"] = to_valid_utf8(prompt.text);
  return object;
}

json::object format_chat_chunk(const ChatRequest& request, const serve::Chunk& chunk) {
  json::value logprobs =
      request.answer.wants_logprobs ? chat_logprobs(chunk.logprobs, request.answer) : json::value(nullptr);
  return chunk_with(request, chunk.index, {{"content", to_valid_utf8(chunk.text)}}, std::move(logprobs), &chunk);
}

json::object format_chat_usage(const ChatRequest& request, const serve::Usage& usage) {
  json::object object = answer_head(request.answer, "chat.completion.chunk");
  object["choices"] = json::array();
  object["usage"] = usage_json(usage, request.answer);
  return object;
}

}  // namespace sluice::api
