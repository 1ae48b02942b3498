// What the processor under us is and what of it may be used: CPUID for what the silicon has, XGETBV for what the
// operating system saves across context switches (an instruction set with unsaved registers is as good as absent).
// Read once, immutable afterwards, any thread. `sluice info` prints it and select.cc chooses by it.
// Caches are as the system's sysfs lists them: in virtual machines what sysconf takes from CPUID is often the host's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::kernels {

struct Cpu {
  std::string model_name;   // "Intel(R) Xeon(R) ...", "unknown processor" if it does not say
  int num_threads = 1;      // that this process may run on
  int64_t l1d_bytes = 0;    // per core; 0: unknown
  int64_t l2_bytes = 0;     // per core
  int64_t l3_bytes = 0;     // of all that this process's cores share, together: some processors have one for each few
  // Usable here: silicon and operating system.
  bool avx2 = false;        // with FMA and F16C: what the avx2 fill is built for
  bool avx512 = false;      // F, BW, CD, DQ and VL
  bool avx512_vnni = false, avx512_bf16 = false, avx_vnni = false;
  bool amx_tile = false, amx_int8 = false, amx_bf16 = false;  // the kernel still has to grant tiles to the process

  // Names of the flags that are set, in the order above: {"avx2", "avx512", ...}.
  std::vector<std::string> flags() const;
};

const Cpu& get_cpu();

struct CacheSizes {
  int64_t l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;  // as in Cpu; 0: it does not say
};
// From a folder laid out as /sys/devices/system/cpu, for those processors. What is missing or not understood is 0.
CacheSizes read_cache_sizes(const std::string& folder, const std::vector<int>& cpu_ids);

// Asks the kernel for AMX tiles, for all threads of this process, the first time. Without leave the first tile
// instruction ends the process. False too where the kernel has none to give; any thread.
bool may_use_tiles();

}  // namespace sluice::kernels
