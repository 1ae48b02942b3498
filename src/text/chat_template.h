// A model's chat template: messages in, prompt text out. Compiled once, immutable, any thread may render. Rendering is
// bounded in steps, recursion and output, so that a hostile template cannot hang or swell the server.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"

namespace sluice::text {

struct ChatTemplateOptions {
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // leave the last message open; REQUIRES: !add_generation_prompt
  json::value tools;                    // null or a list
  json::value documents;                // null or a list
  bool absent_is_none = true;           // null tools and documents are None, as in transformers; else undefined
  json::object extra;                   // chat_template_kwargs: further template variables
  int64_t now_unix_seconds = 0;         // what strftime_now sees (UTC)
};

class ChatTemplate {
 public:
  // `source` is Jinja; bos/eos are the texts of those tokens. Throws Error with the line of a syntax error.
  ChatTemplate(std::string source, std::string bos_token, std::string eos_token);
  ~ChatTemplate();

  // `messages` as in the OpenAI API: a list of {role, content, ...}. Throws Error(kInvalidArgument) for raise_exception and
  // run-time errors, naming the line.
  std::string render(const json::array& messages, const ChatTemplateOptions& options) const;
  const std::string& source() const { return source_; }

 private:
  struct Compiled;
  std::string source_, bos_token_, eos_token_;
  std::unique_ptr<const Compiled> compiled_;
};

// What `sluice template` prints: a whole request object in one call. Known members are messages, tools, documents,
// add_generation_prompt (true unless continue_final_message), continue_final_message, bos_token, eos_token and
// chat_template_kwargs; every other member becomes a template variable of its name, and what is not there is undefined.
std::string render_request(const std::string& source, const json::object& request, int64_t now_unix_seconds);

}  // namespace sluice::text
