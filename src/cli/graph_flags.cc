#include "cli/graph_flags.h"

#include <fmt/format.h>

#include "graph/passes.h"

namespace sluice::cli {

void add_disable_pass(CLI::App& command, std::vector<std::string>& disabled) {
  command.add_option("--disable-pass", disabled, "leave this pass out (repeatable; all: every one)")
      ->allow_extra_args(false);
}

std::vector<std::string> resolve_disabled(const std::vector<std::string>& names) {
  std::vector<std::string> resolved;
  for (const std::string& name : names) {
    if (name != "all") resolved.emplace_back(graph::find_pass(name).name);
    for (const graph::Pass& pass : graph::list_passes()) {
      if (name == "all") resolved.emplace_back(pass.name);
    }
  }
  return resolved;
}

std::string describe_passes() {
  std::string text = "Passes, in the order in which they run:\n";
  for (const graph::Pass& pass : graph::list_passes()) text += fmt::format("  {:<20}{}\n", pass.name, pass.meaning);
  text.pop_back();
  return text;
}

}  // namespace sluice::cli
