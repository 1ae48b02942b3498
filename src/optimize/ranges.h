// What calibration learns of activations: the range of numbers that a value of the model takes.
#pragma once

#include <map>

#include "graph/ir.h"

namespace sluice::optimize {

struct Range {
  float low = 0, high = 0;
};

// By value of the model that was calibrated.
using Ranges = std::map<graph::ValueId, Range>;

}  // namespace sluice::optimize
