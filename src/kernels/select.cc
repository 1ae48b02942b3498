#include <cstring>
#include <optional>
#include <string>

#include "base/check.h"
#include "base/env.h"
#include "base/error.h"
#include "kernels/cpu.h"
#include "kernels/kernels.h"

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
    {"avx512", [] { return get_cpu().avx512_vnni; },
     [](Kernels& table) {
       avx512_fill(table);
       if (get_cpu().avx512_bf16) avx512_bf16_fill(table);
     }},
    {"amx", [] { return get_cpu().avx512_vnni && get_cpu().amx_bf16 && may_use_tiles(); }, amx_fill},
#endif
};

Kernels make_chosen() {
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

Kernels make_for_this_machine() {
  Kernels table = make_chosen();
  std::optional<std::string> invariant = env::find("SLUICE_BATCH_INVARIANT");
  if (invariant && *invariant != "0" && *invariant != "1") {
    fail(Code::kInvalidArgument, "SLUICE_BATCH_INVARIANT={}: it is 0 or 1", *invariant);
  }
  if (invariant && *invariant == "1") {
    for (MatmulEntry& entry : table.few_rows_matmul) entry = {};
    for (auto& entry : table.few_rows_attention) entry = nullptr;
  }
  return table;
}

}  // namespace

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
