// Inputs to run a model on, one after the other: what calibration, comparison and the accuracy budget read.
//
// Nothing is held but what load() makes, so that a set of any size takes the memory of one sample.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace sluice::optimize {

struct Samples {
  int64_t count = 0;
  // One value for each input of the model, in the order of graph.inputs; none: the input's default. The same index
  // gives the same values each time. Throws Error naming the file at fault.
  std::function<std::vector<graph::Value>(int64_t index)> load;
};

// Samples that are in memory already.
inline Samples samples_of(std::vector<std::vector<graph::Value>> values) {
  const auto count = static_cast<int64_t>(values.size());
  return {count, [values = std::move(values)](int64_t index) { return values[static_cast<size_t>(index)]; }};
}

}  // namespace sluice::optimize
