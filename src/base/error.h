// Throwing sluice::Error with a formatted message. See include/sluice/error.h for what an Error is.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "sluice/error.h"

namespace sluice {

// fail(Code::kNotFound, "{}: no tensor '{}'", path, name);
template <typename... Args>
[[noreturn]] void fail(Code code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// The same, naming the request field at fault.
template <typename... Args>
[[noreturn]] void fail_param(const std::string& param, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(Code::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...), param);
}

}  // namespace sluice
