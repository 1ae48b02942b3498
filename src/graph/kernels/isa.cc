#include "graph/kernels/isa.h"

#include <optional>
#include <string>

#include "base/env.h"
#include "kernels/cpu.h"

namespace sluice::graph {

VectorIsa vector_isa() {
  static const VectorIsa isa = [] {
    const std::optional<std::string> wanted = env::find("SLUICE_ISA");
    const auto& cpu = ::sluice::kernels::get_cpu();
    if (wanted == "scalar") return VectorIsa::kBaseline;
    if (cpu.avx512 && wanted != "avx2") return VectorIsa::kAvx512;
    return cpu.avx2 ? VectorIsa::kAvx2 : VectorIsa::kBaseline;
  }();
  return isa;
}

}  // namespace sluice::graph
