#include "text/chat_template.h"

#include "base/error.h"
#include "text/jinja/jinja.h"
#include "text/jinja/unicode_text.h"

namespace sluice::text {

struct ChatTemplate::Compiled {
  jinja::Template code;
};

namespace {

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

// The text of the last message that is to be continued: its content, or the last text part of it.
std::string_view final_text(const json::array& messages) {
  const json::object* message = messages.empty() ? nullptr : messages.back().if_object();
  const json::value* content = message != nullptr ? message->if_contains("content") : nullptr;
  if (content != nullptr && content->is_string()) return view(content->get_string());
  if (content != nullptr && content->is_array()) {
    const json::array& parts = content->get_array();
    for (size_t i = parts.size(); i-- > 0;) {
      const json::object* part = parts[i].if_object();
      const json::value* text = part != nullptr ? part->if_contains("text") : nullptr;
      if (text != nullptr && text->is_string()) return view(text->get_string());
    }
  }
  fail_param("continue_final_message", "continue_final_message is set but the last message has no text to continue");
}

// Leaves out everything the template wrote after the last message's text, as transformers does: a template may trim that
// text, so the trimmed text is looked for, and its own trailing white space stays only where the template kept the text whole.
void cut_after_final_text(std::string& rendered, const json::array& messages) {
  std::string_view text = final_text(messages), trimmed = jinja::strip(text), tail = jinja::strip_left(text);
  size_t begin = rendered.rfind(trimmed);
  if (begin == std::string::npos) {
    fail_param("continue_final_message",
               "continue_final_message is set but the last message's text does not appear in the prompt; the chat template "
               "rewrites it");
  }
  bool is_whole = std::string_view(rendered).substr(begin, tail.size()) == text;
  rendered.resize(begin + (is_whole ? tail.size() : trimmed.size()));
}

}  // namespace

ChatTemplate::ChatTemplate(std::string source, std::string bos_token, std::string eos_token)
    : source_(std::move(source)), bos_token_(std::move(bos_token)), eos_token_(std::move(eos_token)) {
  try {
    compiled_ = std::make_unique<const Compiled>(Compiled{jinja::Template(source_)});
  } catch (const Error& e) {
    throw Error(e.code(), std::string("chat template: ") + e.what(), "chat_template");
  }
}

ChatTemplate::~ChatTemplate() = default;

std::string ChatTemplate::render(const json::array& messages, const ChatTemplateOptions& options) const {
  if (options.continue_final_message && options.add_generation_prompt) {
    fail_param("continue_final_message", "continue_final_message and add_generation_prompt exclude each other");
  }
  // As in transformers: the tokenizer's special tokens first, which extra variables may replace; the conversation last.
  json::object context;
  context["bos_token"] = bos_token_;
  context["eos_token"] = eos_token_;
  for (const auto& variable : options.extra) context[variable.key()] = variable.value();
  context["messages"] = messages;
  context["add_generation_prompt"] = options.add_generation_prompt;
  if (!options.tools.is_null() || options.absent_is_none) context["tools"] = options.tools;
  if (!options.documents.is_null() || options.absent_is_none) context["documents"] = options.documents;
  std::string rendered;
  try {
    rendered = compiled_->code.render(context, options.now_unix_seconds);
  } catch (const Error& e) {
    // Some templates walk their tools without asking whether there are any, which None forbids and undefined allows. What
    // they raise themselves stands.
    bool may_be_none = options.absent_is_none && (options.tools.is_null() || options.documents.is_null());
    if (!may_be_none || !std::string_view(e.what()).starts_with("line ")) throw;
    if (options.tools.is_null()) context.erase("tools");
    if (options.documents.is_null()) context.erase("documents");
    try {
      rendered = compiled_->code.render(context, options.now_unix_seconds);
    } catch (const Error&) {
      throw e;
    }
  }
  if (options.continue_final_message) cut_after_final_text(rendered, messages);
  return rendered;
}

std::string render_request(const std::string& source, const json::object& request, int64_t now_unix_seconds) {
  const json::value* messages = json::find(request, "messages");
  if (messages == nullptr || !messages->is_array()) fail_param("messages", "'messages' must be a list of messages");
  for (const json::value& message : messages->get_array()) {
    if (!message.is_object()) fail_param("messages", "'messages' must hold objects, not {}", json::describe(message));
  }
  ChatTemplateOptions options;
  options.now_unix_seconds = now_unix_seconds;
  options.absent_is_none = false;
  options.continue_final_message = json::read_bool(request, "continue_final_message").value_or(false);
  options.add_generation_prompt = json::read_bool(request, "add_generation_prompt").value_or(!options.continue_final_message);
  for (const auto& member : request) {
    const std::string_view key = member.key();
    const json::value& value = member.value();
    if (key == "tools" || key == "documents") {
      if (!value.is_null() && !value.is_array()) fail_param(std::string(key), "'{}' must be a list, not {}", key, json::describe(value));
      (key == "tools" ? options.tools : options.documents) = value;
    } else if (key == "chat_template_kwargs") {
      if (value.is_null()) continue;
      if (!value.is_object()) fail_param(std::string(key), "'{}' must be an object, not {}", key, json::describe(value));
      for (const auto& variable : value.get_object()) options.extra[variable.key()] = variable.value();
    } else if (key != "messages" && key != "add_generation_prompt" && key != "continue_final_message" &&
               key != "bos_token" && key != "eos_token" && !options.extra.contains(key)) {
      options.extra[member.key()] = value;
    }
  }
  std::string bos_token = json::read_string(request, "bos_token").value_or("");
  std::string eos_token = json::read_string(request, "eos_token").value_or("");
  return ChatTemplate(source, bos_token, eos_token).render(messages->get_array(), options);
}

}  // namespace sluice::text
