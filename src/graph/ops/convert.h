// The elements of one tensor as another element type, for Cast and for operators that convert on the way.
#pragma once

#include "graph/float_types.h"
#include "graph/op.h"

namespace sluice::graph::ops {

struct ConvertOptions {
  bool saturates = true;                      // to 8-bit floats
  RoundMode round_mode = RoundMode::kUp;      // to float8e8m0
};

// REQUIRES: to.count() == from.count(). Throws Error for complex numbers and for text that is no number.
void convert_elements(const Tensor& from, Tensor& to, const ConvertOptions& options, ThreadPool& pool);

}  // namespace sluice::graph::ops
