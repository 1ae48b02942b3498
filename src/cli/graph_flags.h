// Flags that the commands for graphs share.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace sluice::cli {

// --disable-pass NAME, repeatable.
void add_disable_pass(CLI::App& command, std::vector<std::string>& disabled);
// "all" stands for every pass. Throws Error for a name that is no pass.
std::vector<std::string> resolve_disabled(const std::vector<std::string>& names);
// The passes and what they do, for --help.
std::string describe_passes();

}  // namespace sluice::cli
