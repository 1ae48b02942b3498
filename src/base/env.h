// Every environment variable sluice reads, with its default and meaning. check_environment() refuses unknown SLUICE_*
// names, so a misspelt one is an error and not silence; `sluice info` prints the table.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace sluice::env {

struct Variable {
  const char* name;
  const char* default_text;
  const char* meaning;
};

const std::vector<Variable>& variables();
// Throws Error naming the first unknown SLUICE_* variable.
void check_environment();
// The value if set and not empty. REQUIRES: `name` is in variables().
std::optional<std::string> find(const char* name);

}  // namespace sluice::env
