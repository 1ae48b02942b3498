// A Jinja2 engine complete enough for chat templates: what Jinja2's sandboxed environment does with Hugging Face's
// settings (trim_blocks, lstrip_blocks, loop controls, `tojson`, `raise_exception`, `strftime_now`). Undefined names
// are lenient as in Jinja2 (print as nothing, fail on attribute access of undefined). No I/O, no clock, no host access.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"

namespace sluice::jinja {

struct Limits {
  int64_t max_output_bytes = 16 << 20;
  int64_t max_steps = 20'000'000;   // statements and expression nodes evaluated
  int max_depth = 200;              // nested expressions, macros, recursive loops
};

struct Ast;

class Template {
 public:
  // Throws Error(kInvalidArgument) "line N: what".
  explicit Template(std::string_view source);
  ~Template();
  Template(Template&&) noexcept;

  // `context` gives the variables. Throws Error(kInvalidArgument): the message of raise_exception() as it is, other run-time
  // errors as "line N: what". `now_unix_seconds` is what strftime_now formats, in UTC.
  std::string render(const json::object& context, int64_t now_unix_seconds, const Limits& limits = {}) const;

 private:
  std::unique_ptr<Ast> ast_;
};

}  // namespace sluice::jinja
