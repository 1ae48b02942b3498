#include "base/build_info.h"

#include "sluice_commit.h"  // written at build time by tools/write_commit.cmake

namespace sluice {

std::string build_commit() { return SLUICE_COMMIT; }

std::string build_compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#else
  return "GCC " __VERSION__;
#endif
}

std::string build_type() {
  std::string type = SLUICE_BUILD_TYPE;
#if defined(__SANITIZE_ADDRESS__)
  type += " with address and undefined sanitizers";
#elif defined(__SANITIZE_THREAD__)
  type += " with thread sanitizer";
#endif
  return type;
}

}  // namespace sluice
