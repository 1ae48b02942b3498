// For tests of errors: what the Error said that `work` threw.
#pragma once

#include <functional>
#include <string>

#include "base/error.h"

namespace sluice::bench {

inline std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.message();
  }
  return "nothing was thrown";
}

}  // namespace sluice::bench
