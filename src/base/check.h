// CHECK(condition, values...): a bug of ours stops the program, printing the condition, the values, file and line,
// and the last trace events of this thread. DCHECK is the same in debug and sanitizer builds and nothing in release
// builds; use it in hot loops. Input from a file or a request never reaches a CHECK: that is an Error.
#pragma once

#include <fmt/format.h>

#include <string>

namespace sluice::internal {

[[noreturn]] void check_failed(const char* condition, const char* file, int line, const std::string& values);

template <typename... Values>
std::string format_values(const Values&... values) {
  std::string text;
  (text.append(" ").append(fmt::format("{}", values)), ...);
  return text;
}

}  // namespace sluice::internal

#define CHECK(condition, ...)                                                  \
  (__builtin_expect(static_cast<bool>(condition), 1)                           \
       ? static_cast<void>(0)                                                  \
       : ::sluice::internal::check_failed(#condition, __FILE__, __LINE__,      \
                                          ::sluice::internal::format_values(__VA_ARGS__)))

#ifdef NDEBUG
#define DCHECK(condition, ...) static_cast<void>(0)
#else
#define DCHECK(condition, ...) CHECK(condition __VA_OPT__(, ) __VA_ARGS__)
#endif
