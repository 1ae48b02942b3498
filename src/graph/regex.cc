#define PCRE2_CODE_UNIT_WIDTH 8
#include "graph/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>

#include "base/error.h"

namespace sluice::graph {
namespace {

constexpr uint32_t kMaxSteps = 20'000'000;
constexpr uint32_t kMaxHeapKib = 64 << 10;
constexpr size_t kMaxPatternBytes = 1 << 16;
constexpr int kMaxRepetitions = 1000;  // RE2's own limit

// Reads a pattern of RE2 and writes one of PCRE2.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        translate_escape(/*is_in_class=*/false);
      } else if (c == '[') {
        translate_class();
      } else if (c == '(') {
        translate_group();
      } else if (c == '*' || c == '+' || c == '?' || (c == '{' && is_repetition())) {
        translate_repetition();
        continue;
      } else {
        copy(1);
      }
      was_repetition_ = false;
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail_at(std::string_view what) const {
    fail(Code::kInvalidArgument, "bad regular expression '{}': {} at offset {}", in_.substr(0, 500), what, at_);
  }
  bool starts_with(std::string_view text) const { return in_.substr(at_, text.size()) == text; }
  void copy(size_t count) {
    out_.append(in_.substr(at_, count));
    at_ = std::min(at_ + count, in_.size());
  }
  void replace(size_t count, std::string_view with) {
    out_.append(with);
    at_ += count;
  }

  // {2}, {2,} and {2,5} repeat; any other brace is itself.
  bool is_repetition() const {
    size_t end = at_ + 1;
    auto skip_digits = [&] {
      const size_t begin = end;
      while (end < in_.size() && in_[end] >= '0' && in_[end] <= '9') ++end;
      return end > begin;
    };
    if (!skip_digits()) return false;
    if (end < in_.size() && in_[end] == ',') {
      ++end;
      skip_digits();
    }
    return end < in_.size() && in_[end] == '}';
  }

  void translate_repetition() {
    if (was_repetition_) fail_at("a repetition of a repetition");
    if (in_[at_] == '{') {
      int number = 0;
      while (in_[at_] != '}') {
        const char c = in_[at_];
        number = c >= '0' && c <= '9' ? number * 10 + (c - '0') : 0;
        if (number > kMaxRepetitions) fail_at("more than 1000 repetitions");
        copy(1);
      }
    }
    copy(1);
    if (at_ < in_.size() && in_[at_] == '?') copy(1);
    was_repetition_ = true;
  }

  void translate_group() {
    if (starts_with("(*")) fail_at("nothing to repeat");
    if (!starts_with("(?")) return copy(1);
    if (starts_with("(?P<") || starts_with("(?:")) return copy(starts_with("(?:") ? 3 : 4);
    if (starts_with("(?<") && !starts_with("(?<=") && !starts_with("(?<!")) return copy(3);
    // Flags: (?i) or (?im-s:
    size_t end = at_ + 2;
    while (end < in_.size() && std::string_view("imsU-").find(in_[end]) != std::string_view::npos) ++end;
    if (end == at_ + 2 || end >= in_.size() || (in_[end] != ')' && in_[end] != ':')) {
      fail_at("a group that RE2 does not know");
    }
    copy(end + 1 - at_);
  }

  void translate_class() {
    copy(1);
    if (at_ < in_.size() && in_[at_] == '^') copy(1);
    if (at_ < in_.size() && in_[at_] == ']') replace(1, "\\]");
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '\\') {
        translate_escape(/*is_in_class=*/true);
      } else if (starts_with("[:")) {
        const size_t end = in_.find(":]", at_ + 2);
        if (end == std::string_view::npos) {
          replace(1, "\\[");
        } else {
          copy(end + 2 - at_);
        }
      } else if (in_[at_] == '[') {
        replace(1, "\\[");
      } else {
        copy(1);
      }
    }
    if (at_ >= in_.size()) fail_at("a class without its end");
    copy(1);
  }

  void translate_escape(bool is_in_class) {
    if (at_ + 1 >= in_.size()) fail_at("a backslash at the end");
    const char c = in_[at_ + 1];
    switch (c) {
      case 'v': return replace(2, "\\x0b");
      case 's': return replace(2, is_in_class ? "\\t\\n\\f\\r " : "[\\t\\n\\f\\r ]");
      case 'S':
        return replace(2,
                       is_in_class ? "\\x{00}-\\x{08}\\x{0b}\\x{0e}-\\x{1f}\\x{21}-\\x{10ffff}" : "[^\\t\\n\\f\\r ]");
      case 'p':
      case 'P': return translate_property();
      case 'Q': return translate_quoted(is_in_class);
      case 'x': return translate_hex();
      case 'd': case 'D': case 'w': case 'W': case 'a': case 'f': case 't': case 'n': case 'r': return copy(2);
      case 'A': case 'z': case 'b': case 'B':
        if (is_in_class) break;
        return copy(2);
      default: break;
    }
    if (c >= '0' && c <= '7') return translate_octal();
    const bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '8' || c == '9' || c == '_';
    if (is_word) fail_at("an escape that RE2 does not know");
    copy(2);  // punctuation, or the first byte of a longer character
  }

  // \0, \012, \123; \1 to \7 alone would be a back-reference.
  void translate_octal() {
    const size_t begin = at_ + 1;
    size_t end = begin;
    int value = 0;
    while (end < in_.size() && end < begin + 3 && in_[end] >= '0' && in_[end] <= '7') {
      value = value * 8 + (in_[end++] - '0');
    }
    if (in_[begin] != '0' && end < begin + 2) fail_at("a back-reference");
    replace(end - at_, fmt::format("\\x{{{:x}}}", value));
  }

  void translate_hex() {
    size_t begin = at_ + 2, end;
    const bool has_braces = begin < in_.size() && in_[begin] == '{';
    if (has_braces) {
      end = in_.find('}', ++begin);
    } else {
      end = begin + 2;
    }
    if (end == std::string_view::npos || end > in_.size() || end == begin || end > begin + 8) fail_at("a bad \\x");
    const std::string_view digits = in_.substr(begin, end - begin);
    if (digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) fail_at("a bad \\x");
    replace(end + (has_braces ? 1 : 0) - at_, fmt::format("\\x{{{}}}", digits));
  }

  // A script is PCRE2's sc:; a general category of one or two letters is the same in both.
  void translate_property() {
    std::string_view name;
    size_t end = at_ + 3;
    if (at_ + 2 >= in_.size()) fail_at("a property without a name");
    if (in_[at_ + 2] == '{') {
      end = in_.find('}', at_);
      if (end == std::string_view::npos) fail_at("a property without its end");
      name = in_.substr(at_ + 3, end - at_ - 3);
      ++end;
    } else {
      name = in_.substr(at_ + 2, 1);
    }
    bool is_negative = in_[at_ + 1] == 'P';
    if (!name.empty() && name[0] == '^') {
      is_negative = !is_negative;
      name.remove_prefix(1);
    }
    const bool is_word = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    });
    if (!is_word) fail_at("a property that RE2 does not know");
    replace(end - at_,
            fmt::format("\\{}{{{}{}}}", is_negative ? 'P' : 'p', name.size() > 2 && name != "Any" ? "sc:" : "", name));
  }

  // Everything up to \E is itself.
  void translate_quoted(bool is_in_class) {
    if (is_in_class) fail_at("an escape that RE2 does not know");
    at_ += 2;
    while (at_ < in_.size() && !starts_with("\\E")) {
      const unsigned char c = static_cast<unsigned char>(in_[at_]);
      const bool is_punctuation =
          c < 0x80 && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z') && c > ' ';
      if (is_punctuation) out_.push_back('\\');
      copy(1);
    }
    at_ = std::min(at_ + 2, in_.size());
  }

  std::string_view in_;
  std::string out_;
  size_t at_ = 0;
  bool was_repetition_ = false;
};

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 160> message{};
  pcre2_get_error_message(error, message.data(), message.size());
  return reinterpret_cast<const char*>(message.data());
}

PCRE2_SPTR bytes_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

// What one thread needs to match, kept from one text to the next.
struct Workspace {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, 8 << 20, nullptr);
  Workspace() {
    if (data == nullptr || context == nullptr) {
      fail(Code::kResourceExhausted, "no memory to match a regular expression");
    }
    pcre2_set_match_limit(context, kMaxSteps);
    pcre2_set_heap_limit(context, kMaxHeapKib);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Workspace() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

Workspace& get_workspace() {
  thread_local Workspace workspace;
  return workspace;
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, FreeCode> compiled;
  std::string pattern;
};

Regex::Regex(std::string_view pattern) : code_(std::make_unique<Code>()) {
  if (pattern.size() > kMaxPatternBytes) {
    fail(sluice::Code::kInvalidArgument, "regular expression of {} bytes is longer than {}", pattern.size(),
         kMaxPatternBytes);
  }
  code_->pattern = pattern;
  const std::string translated = Translator(pattern).run();
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (context == nullptr) fail(sluice::Code::kResourceExhausted, "no memory for a regular expression");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_DOLLAR_ENDONLY |
                                PCRE2_NEVER_BACKSLASH_C | PCRE2_DUPNAMES;
  code_->compiled.reset(
      pcre2_compile(bytes_of(translated), translated.size(), kOptions, &error, &error_offset, context));
  pcre2_compile_context_free(context);
  if (code_->compiled == nullptr) {
    fail(sluice::Code::kInvalidArgument, "bad regular expression '{}': {} at offset {} of its translation '{}'",
         pattern.substr(0, 500), message_of(error), error_offset, translated.substr(0, 500));
  }
  pcre2_jit_compile(code_->compiled.get(), PCRE2_JIT_COMPLETE);  // without it, matching is slower and the same
}

Regex::~Regex() = default;

bool Regex::matches(std::string_view text) const {
  const Workspace& workspace = get_workspace();
  auto match = [&](uint32_t options) {
    return pcre2_match(code_->compiled.get(), bytes_of(text), text.size(), 0, options, workspace.data,
                       workspace.context);
  };
  int result = match(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);  // its stack is the heap
  if (result >= 0) return true;
  const bool is_no_utf8 = result <= PCRE2_ERROR_UTF8_ERR1 && result >= PCRE2_ERROR_UTF8_ERR21;
  if (result == PCRE2_ERROR_NOMATCH || is_no_utf8) return false;
  fail(sluice::Code::kResourceExhausted, "regular expression '{}' on a text of {} bytes: {}",
       code_->pattern.substr(0, 500), text.size(), message_of(result));
}

}  // namespace sluice::graph
