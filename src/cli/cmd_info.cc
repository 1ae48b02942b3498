// sluice info: what this machine and this binary are.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/build_info.h"
#include "base/env.h"
#include "base/error.h"
#include "base/json.h"
#include "base/thread_pool.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "kernels/cpu.h"
#include "kernels/kernels.h"
#include "llm/registry.h"
#include "sluice/version.h"

namespace sluice::cli {
namespace {

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

void run(bool as_json) {
  const kernels::Cpu& cpu = kernels::get_cpu();
  kernels::IsaList isas = kernels::available_isas();
  std::vector<std::string> fills(isas.names, isas.names + isas.count);
  int64_t memory = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  int64_t available = static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  if (as_json) {
    json::array fill_names(fills.begin(), fills.end()), architectures;
    for (const std::string& name : llm::supported_architectures()) architectures.emplace_back(name);
    json::array flags;
    for (const std::string& flag : cpu.flags()) flags.emplace_back(flag);
    std::printf("%s\n", json::serialize(json::object{{"version", SLUICE_VERSION}, {"commit", build_commit()},
                                                     {"compiler", build_compiler()}, {"build", build_type()},
                                                     {"cpu", cpu.model_name}, {"cpu_flags", flags},
                                                     {"cores", num_available_cores()}, {"isa", kernels::get_kernels().isa},
                                                     {"fills", fill_names}, {"memory_bytes", memory},
                                                     {"free_memory_bytes", available},
                                                     {"architectures", architectures}}).c_str());
    return;
  }
  std::printf("sluice       %s, commit %s, %s, %s\n", SLUICE_VERSION, build_commit().c_str(), build_compiler().c_str(),
              build_type().c_str());
  std::printf("cpu          %s, %d cores\n", cpu.model_name.c_str(), num_available_cores());
  std::printf("caches       L1d %s, L2 %s a core, L3 %s\n", format_bytes(cpu.l1d_bytes).c_str(),
              format_bytes(cpu.l2_bytes).c_str(), format_bytes(cpu.l3_bytes).c_str());
  std::printf("it has       %s\n", join(cpu.flags()).c_str());
  std::printf("kernels      %s (compiled in and runnable here: %s)\n", kernels::get_kernels().isa, join(fills).c_str());
  std::printf("memory       %s, %s free\n", format_bytes(memory).c_str(), format_bytes(available).c_str());
  std::printf("models       %s\n", join(llm::supported_architectures()).c_str());
  std::printf("environment\n");
  for (const env::Variable& variable : env::variables()) {
    const char* value = std::getenv(variable.name);
    bool secret = std::string_view(variable.name) == "SLUICE_API_KEY";
    std::printf("  %-22s %s; %s\n", variable.name,
                value == nullptr ? fmt::format("not set ({})", variable.default_text).c_str() : secret ? "set" : value,
                variable.meaning);
  }
}

}  // namespace

void add_info(CLI::App& parent) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App* command = parent.add_subcommand("info", "Show the CPU, the kernels in use, memory, build and environment");
  command->add_flag("--json", *as_json, "as one JSON object");
  command->callback([as_json] { run(*as_json); });
}

}  // namespace sluice::cli
