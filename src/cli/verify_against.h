// `sluice verify MODEL --against REFERENCE`: how close one model's outputs are to another's.
#pragma once

#include <string>
#include <vector>

#include "cli/graph_load.h"

namespace sluice::cli {

struct AgainstFlags {
  std::string reference;
  std::vector<std::string> data;    // as calibration takes it; empty: made up
  std::vector<std::string> shapes;  // of inputs that are made up
};
void add_against_flags(CLI::App& command, AgainstFlags& flags);

// Prints cosine, errors and top-1 agreement of each output. Throws Error.
void verify_against(const std::string& model, const AgainstFlags& against, const GraphFlags& flags);

}  // namespace sluice::cli
