// How wide the vectors of the graph's own kernels may be: what the processor has, or less if SLUICE_ISA says so, which
// also limits oneDNN. Asked once; any thread.
#pragma once

#include <cstdint>

namespace sluice::graph {

enum class VectorIsa : uint8_t { kBaseline, kAvx2, kAvx512 };

VectorIsa vector_isa();

}  // namespace sluice::graph
