#include "bench/request_record.h"

#include <fmt/format.h>

#include <optional>

#include "base/error.h"
#include "base/json.h"

namespace sluice::bench {
namespace {

constexpr size_t kMessageBytesMax = 300;

const json::object* find_object(const json::object& parent, std::string_view key) {
  const json::value* value = json::find(parent, key);
  return value != nullptr && value->is_object() ? &value->get_object() : nullptr;
}

std::string_view find_text(const json::object& object, std::string_view key) {
  const json::value* value = json::find(object, key);
  if (value == nullptr || !value->is_string()) return {};
  return {value->get_string().data(), value->get_string().size()};
}

int64_t find_count(const json::object& object, std::string_view key) {
  const json::value* value = json::find(object, key);
  return value != nullptr && value->is_int64() && value->get_int64() > 0 ? value->get_int64() : 0;
}

// {"error": {"message": ...}}, {"error": "..."}, {"message": ...}, {"detail": ...}
std::string find_message(const json::object& body) {
  if (const json::object* error = find_object(body, "error")) return std::string(find_text(*error, "message"));
  for (const char* key : {"error", "message", "detail"}) {
    if (std::string_view text = find_text(body, key); !text.empty()) return std::string(text);
  }
  return "";
}

// Foreign text for a line of a report: bounded, no control characters, no half character at its end.
std::string one_line(std::string_view text) {
  std::string line(text.substr(0, kMessageBytesMax));
  if (line.size() < text.size()) {
    while (!line.empty() && (static_cast<unsigned char>(line.back()) & 0xC0) == 0x80) line.pop_back();
    if (!line.empty() && static_cast<unsigned char>(line.back()) >= 0xC0) line.pop_back();
    line += "...";
  }
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return line;
}

// Whether a token was generated for this piece. Of /v1/completions each has one, even if its text is held back. A chat
// may begin with a piece that only says whose turn it is, and end with one that only says why.
bool has_output(const json::object& choice, bool is_first) {
  const json::object* delta = find_object(choice, "delta");
  if (delta == nullptr) return true;
  for (const char* key : {"content", "reasoning_content", "reasoning"}) {
    if (!find_text(*delta, key).empty()) return true;
  }
  if (json::find(*delta, "tool_calls") != nullptr) return true;
  if (json::find(choice, "finish_reason") != nullptr) return is_first;
  return json::find(*delta, "role") == nullptr;
}

}  // namespace

void StreamReader::read(std::string_view data, double seconds) {
  if (!record_.error.empty() || data == "[DONE]") return;
  json::value parsed;
  try {
    parsed = json::parse(data);
  } catch (const Error& error) {
    record_.error = "an event of the stream is no JSON: " + one_line(error.message());
    return;
  }
  if (!parsed.is_object()) {
    record_.error = "an event of the stream is no JSON object: " + one_line(data);
    return;
  }
  const json::object& event = parsed.get_object();
  if (json::find(event, "error") != nullptr) {
    std::string message = find_message(event);
    record_.error = "the stream broke off: " + one_line(message.empty() ? data : std::string_view(message));
    return;
  }
  const json::value* choices = json::find(event, "choices");
  if (choices != nullptr && choices->is_array() && !choices->get_array().empty()) {
    const json::value& choice = choices->get_array()[0];
    if (choice.is_object() && has_output(choice.get_object(), record_.piece_seconds.empty())) {
      record_.piece_seconds.push_back(seconds);
    }
    if (choice.is_object() && find_text(choice.get_object(), "finish_reason") == "stop") record_.has_stopped = true;
  }
  if (const json::object* usage = find_object(event, "usage")) {
    record_.has_usage = true;
    record_.prompt_tokens = find_count(*usage, "prompt_tokens");
    record_.output_tokens = find_count(*usage, "completion_tokens");
    const json::object* details = find_object(*usage, "prompt_tokens_details");
    if (details != nullptr && json::find(*details, "cached_tokens") != nullptr) {
      record_.cached_tokens = find_count(*details, "cached_tokens");
    }
  }
}

void StreamReader::finish() {
  if (!record_.error.empty()) return;
  if (record_.piece_seconds.empty()) {
    record_.error = "the stream ended without a token";
  } else if (!record_.has_usage) {
    record_.output_tokens = static_cast<int64_t>(record_.piece_seconds.size());
  }
}

std::string describe_error_reply(int status, std::string_view body) {
  std::string message;
  try {
    json::value parsed = json::parse(body);
    if (parsed.is_object()) message = find_message(parsed.get_object());
  } catch (const Error&) {
    // Then it is text, or a page of a proxy.
  }
  if (message.empty()) message = std::string(body);
  return fmt::format("HTTP {}{}{}", status, message.empty() ? "" : ": ", one_line(message));
}

}  // namespace sluice::bench
