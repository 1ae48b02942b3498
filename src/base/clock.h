// Time. Code that decides something by the time takes it as a parameter (`now_us`), so that tests own the clock; only
// loops at the edge call these.
#pragma once

#include <chrono>
#include <cstdint>

namespace sluice {

// Microseconds from an arbitrary start; never goes back.
inline int64_t monotonic_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds since 1970-01-01 UTC.
inline int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace sluice
