// A tensor without elements may still have enormous other dimensions, and arithmetic over these would overflow, or loop
// for years over nothing. Operators that count by dimensions refuse such shapes first.
#pragma once

#include <algorithm>

#include "graph/op.h"

namespace sluice::graph::ops {

inline constexpr int64_t kMaxHeads = 1 << 20;

// Throws Error if the dimensions other than 0 of an input multiply to more than 2^46.
inline void refuse_absurd_shapes(const RunContext& context) {
  for (int i = 0; i < context.num_inputs(); ++i) {
    if (!context.has_input(i) || context.input_value(i).kind != Value::Kind::kTensor) continue;
    int64_t count = 1;
    bool is_too_large = false;
    for (const int64_t dim : context.input(i).shape()) {
      is_too_large |= __builtin_mul_overflow(count, std::max<int64_t>(dim, 1), &count) || count > (int64_t{1} << 46);
    }
    if (is_too_large) context.fail("input {} is {}, which is too large", i + 1, to_string(context.input(i).shape()));
  }
}

}  // namespace sluice::graph::ops
