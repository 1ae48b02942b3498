#include <cstring>
#include <optional>
#include <string>

#include "base/check.h"
#include "base/env.h"
#include "base/error.h"
#include "kernels/cpu.h"
#include "kernels/kernels.h"
#include "kernels/quant_blocks.h"

namespace sluice::kernels {
namespace {

struct Fill {
  const char* name;
  bool (*runs_here)();
  void (*fill)(Kernels& table);
};

// Slowest first; each overwrites the entries it does faster than those before it.
constexpr Fill kFills[] = {
    {"scalar", [] { return true; }, scalar_fill},
#if defined(__x86_64__)
    {"avx2", [] { return get_cpu().avx2; }, avx2_fill},
#endif
};

Kernels make_for_this_machine() {
  IsaList isas = available_isas();
  std::optional<std::string> wanted = env::find("SLUICE_ISA");
  if (!wanted) return make_kernels(isas.names[isas.count - 1]);
  std::string names;
  for (int i = 0; i < isas.count; ++i) {
    if (*wanted == isas.names[i]) return make_kernels(isas.names[i]);
    names += std::string(names.empty() ? "" : ", ") + isas.names[i];
  }
  fail(Code::kInvalidArgument, "SLUICE_ISA={}: this machine runs {}; set one of them or unset the variable", *wanted,
       names);
}

}  // namespace

int64_t activation_row_bytes(ActivationFormat format, int64_t num_inputs) {
  if (format != ActivationFormat::kQ8_32) return num_inputs * static_cast<int64_t>(sizeof(float));
  DCHECK(num_inputs % 32 == 0, num_inputs);
  return num_inputs / 32 * static_cast<int64_t>(sizeof(BlockQ8_32));
}

IsaList available_isas() {
  IsaList list = {};
  for (const Fill& fill : kFills) {
    if (fill.runs_here()) list.names[list.count++] = fill.name;
  }
  return list;
}

Kernels make_kernels(const char* isa) {
  Kernels table = {};
  for (const Fill& fill : kFills) {
    CHECK(fill.runs_here(), isa);
    fill.fill(table);
    if (std::strcmp(fill.name, isa) == 0) return table;
  }
  CHECK(false, isa);
  return table;
}

const Kernels& get_kernels() {
  static const Kernels table = make_for_this_machine();
  return table;
}

}  // namespace sluice::kernels
