#include "base/check.h"

#include <cstdio>
#include <cstdlib>

#include "base/trace.h"

namespace sluice::internal {

void check_failed(const char* condition, const char* file, int line, const std::string& values) {
  std::fprintf(stderr, "sluice: internal error: CHECK(%s) failed at %s:%d:%s\n", condition, file, line,
               values.c_str());
  for (const std::string& event : trace::last_events(16)) std::fprintf(stderr, "  %s\n", event.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace sluice::internal
