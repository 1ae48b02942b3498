// A plan: an optimised model with everything that was found out when it was built (times of kernels, packed weights,
// profiles), in a file that loads in a fraction of the time.
//
// Layout, little-endian: a header of 64 bytes (magic "SLUICEPL", format version, where the manifest is, checksums),
// then sections in any order at multiples of 64, then the manifest, which is JSON. Sections: `model` (the optimised
// graph as ONNX), `source` (the model that it was made of, for rebuilding it), `timings` (text), `constants` (elements
// of large tensors and packed weights, which both graphs refer to by offset, each stored once). A plan holds for the
// version of sluice and the instruction set that built it. Constants are used where they lie in the mapped file.
//
// Weights can be stored as half floats: they are rounded when the plan is built and widened when it is loaded.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "graph/precision.h"
#include "graph/program.h"

namespace sluice::graph {

inline constexpr uint32_t kPlanFormat = 1;

struct PlanInfo {
  std::string sluice_version, isa;  // that built it
  std::string source;               // name of the model's file
  int num_threads = 1;              // that it was tuned for
  Precision precision = Precision::kF32;
  bool stores_halves = false;
  std::vector<std::string> disabled_passes;
};

struct Plan {
  PlanInfo info;
  std::shared_ptr<Shared> shared;
};

// Rounds the large float32 constants of a model to half floats: what a plan that stores halves will compute with.
// Constants with magnitudes beyond float16 stay as they are.
void round_to_halves(Model& model);

// `source` is the model before optimise(). The file appears whole or not at all. Throws Error.
void write_plan(const std::string& path, const Shared& shared, const Model& source, const PlanInfo& info);

// Throws Error: kInvalidArgument for what is no plan or is damaged; kFailedPrecondition for a plan of another version
// or instruction set, with what to do about it.
Plan load_plan(const std::string& path);

// What a plan was made of, also if it is stale, or damaged elsewhere.
struct PlanSource {
  PlanInfo info;
  std::vector<Profile> profiles;
  Model model;
};
PlanSource load_plan_source(const std::string& path);

// Whether the file begins like a plan. False if it cannot be read.
bool is_plan(const std::string& path);

}  // namespace sluice::graph
