#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include "base/error.h"
#include "text/unicode.h"

namespace sluice::text {

struct Regex::Code {
  pcre2_code* compiled = nullptr;
  ~Code() { pcre2_code_free(compiled); }
};

namespace {

// A search takes at most this many steps. Honest patterns need a few per character.
constexpr uint32_t kMaxSteps = 200'000'000;
constexpr size_t kMaxPatternBytes = 1 << 20;

// What one thread needs to search, kept from one search to the next.
struct Workspace {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(64 << 10, 64 << 20, nullptr);  // grows on demand
  Workspace() {
    if (data == nullptr || context == nullptr) fail(Code::kResourceExhausted, "no memory for a regular expression search");
    pcre2_set_match_limit(context, kMaxSteps);
    pcre2_set_depth_limit(context, 10'000'000);
    pcre2_set_heap_limit(context, 512 << 10);  // KiB
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

}  // namespace

Regex::Regex(std::string_view pattern) : code_(std::make_unique<Code>()) {
  if (pattern.size() > kMaxPatternBytes) {
    fail(sluice::Code::kInvalidArgument, "regular expression of {} bytes is longer than {}", pattern.size(), kMaxPatternBytes);
  }
  needs_boundary_ = pattern == R"(\d{1,3}(?=(?:\d{3})*\b))";
  empty_matches_ = pattern == R"((?=(\d{3})+(?!\d)))" || pattern == R"((?=(?:\d{3})+(?!\d)))";
  any_number_ = pattern == R"(\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N})))" ||
                pattern == R"(\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$)))";
  groups_digits_ = needs_boundary_ || empty_matches_ || any_number_ ||
                   pattern == R"(\d{1,3}(?=(?:\d{3})*(?!\d)))";
  std::string translated = translate_pattern(pattern);
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (context == nullptr) fail(sluice::Code::kResourceExhausted, "no memory for a regular expression");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  code_->compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                  &error_offset, context);
  pcre2_compile_context_free(context);
  if (code_->compiled == nullptr) {
    PCRE2_UCHAR message[160] = {};
    pcre2_get_error_message(error, message, sizeof message);
    fail(sluice::Code::kInvalidArgument, "bad regular expression '{}': {} at offset {} of its translation '{}'",
         pattern.substr(0, 500), reinterpret_cast<const char*>(message), error_offset, translated.substr(0, 500));
  }
  pcre2_jit_compile(code_->compiled, PCRE2_JIT_COMPLETE);  // without it, searching is slower and the same
}

std::vector<Regex::Match> Regex::find_digit_groups(std::string_view text) const {
  std::vector<Match> groups;
  std::vector<size_t> starts;  // of the characters of one number
  for (size_t at = 0; at < text.size();) {
    Utf8Character c = decode_utf8(text, at);
    auto is_digit = [&] { return any_number_ ? is_number(c.code_point) : is_decimal_digit(c.code_point); };
    if (!is_digit()) {
      at += c.num_bytes;
      continue;
    }
    starts.clear();
    while (is_digit()) {
      starts.push_back(at);
      at += c.num_bytes;
      if (at >= text.size()) break;
      c = decode_utf8(text, at);
    }
    if (needs_boundary_ && at < text.size() && is_word_character(c.code_point)) continue;
    for (size_t i = 0; i < starts.size();) {
      size_t size = (starts.size() - i) % 3 == 0 ? 3 : (starts.size() - i) % 3;
      size_t end = i + size < starts.size() ? starts[i + size] : at;
      if (!empty_matches_) {
        groups.push_back({starts[i], end});
      } else if (size == 3) {
        groups.push_back({starts[i], starts[i]});
      }
      i += size;
    }
  }
  return groups;
}

Regex::~Regex() = default;
Regex::Regex(Regex&& other) noexcept = default;
Regex& Regex::operator=(Regex&& other) noexcept = default;

bool Regex::find(std::string_view text, size_t from, Match& match) const {
  Workspace& workspace = get_workspace();
  auto search = [&](uint32_t options) {
    return pcre2_match(code_->compiled, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       PCRE2_NO_UTF_CHECK | options, workspace.data, workspace.context);
  };
  int result = search(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = search(PCRE2_NO_JIT);  // its stack is the heap
  if (result < 0) return false;
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(workspace.data);
  if (ends[1] < ends[0] || ends[0] < from) return false;  // \K in a lookahead
  match = {ends[0], ends[1]};
  return true;
}

}  // namespace sluice::text
