// Lines of bfloat16 to float32 and back, with vectors as wide as the processor has. The result is rounded to nearest, ties
// to even; what is no number stays none. Any thread.
#pragma once

#include <cstdint>

namespace sluice::graph {

void widen_bf16(const uint16_t* from, int64_t count, float* to);
void round_to_bf16(const float* from, int64_t count, uint16_t* to);

}  // namespace sluice::graph
