#include "base/env.h"

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "base/error.h"

extern char** environ;

namespace sluice::env {

const std::vector<Variable>& variables() {
  static const std::vector<Variable> table = {
      {"SLUICE_ISA", "best of this machine", "force one kernel fill: scalar, avx2, avx512 or amx; graphs take no wider vectors"},
      {"SLUICE_BATCH_INVARIANT", "0", "1: the same bits in small and large batches also with amx kernels"},
      {"SLUICE_API_KEY", "none", "key that clients must send, as --api-key"},
      {"SLUICE_TEST_DATA", "../shared/data", "folder of the larger test data; tests that need it skip without"},
      {"SLUICE_UPDATE_GOLDEN", "0", "1: tests rewrite their golden files instead of comparing"},
  };
  return table;
}

void check_environment() {
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    std::string_view text(*entry);
    if (!text.starts_with("SLUICE_")) continue;
    std::string_view name = text.substr(0, text.find('='));
    bool known = false;
    std::string names;
    for (const Variable& variable : variables()) {
      known = known || name == variable.name;
      names += names.empty() ? variable.name : std::string(", ") + variable.name;
    }
    if (!known) fail(Code::kInvalidArgument, "unknown environment variable {}: sluice reads {}", name, names);
  }
}

std::optional<std::string> find(const char* name) {
  bool known = false;
  for (const Variable& variable : variables()) known = known || std::strcmp(variable.name, name) == 0;
  CHECK(known, name);
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::string(text);
}

}  // namespace sluice::env
