// What this binary was built from and how; `sluice info` and `sluice bench` print it.
#pragma once

#include <string>

namespace sluice {

std::string build_commit();    // "3ede663" or "3ede663-dirty"; "unknown" outside a git checkout
std::string build_compiler();  // "GCC 12.2.0"
std::string build_type();      // "Release", with sanitizers named

}  // namespace sluice
