#include "kernels/cpu.h"

#include <sched.h>
#include <unistd.h>

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

namespace sluice::kernels {
namespace {

#if defined(__x86_64__)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero for a leaf that the processor does not have.
Registers read_cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

// Which register states the operating system saves. REQUIRES: the OSXSAVE bit.
uint64_t read_xcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool has(uint32_t value, int bit) { return (value >> bit & 1) != 0; }

std::string read_model_name() {
  char text[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    Registers r = read_cpuid(0x80000002u + i);
    uint32_t words[4] = {r.eax, r.ebx, r.ecx, r.edx};
    std::memcpy(text + i * 16, words, 16);
  }
  std::string name(text);
  size_t begin = name.find_first_not_of(' '), end = name.find_last_not_of(' ');
  return begin == std::string::npos ? "unknown processor" : name.substr(begin, end - begin + 1);
}

void read_features(Cpu& cpu) {
  Registers one = read_cpuid(1), seven = read_cpuid(7), seven_one = read_cpuid(7, 1);
  if (!has(one.ecx, 27)) return;  // OSXSAVE
  uint64_t saved = read_xcr0();
  bool ymm = (saved & 0x6u) == 0x6u;           // SSE and AVX halves
  bool zmm = ymm && (saved & 0xe0u) == 0xe0u;  // mask registers, upper halves, upper sixteen
  bool tiles = (saved & 0x60000u) == 0x60000u;
  cpu.avx2 = ymm && has(one.ecx, 28) && has(one.ecx, 12) && has(one.ecx, 29) && has(seven.ebx, 5);
  cpu.avx512 = zmm && cpu.avx2 && has(seven.ebx, 16) && has(seven.ebx, 17) && has(seven.ebx, 28) &&
               has(seven.ebx, 30) && has(seven.ebx, 31);
  cpu.avx512_vnni = cpu.avx512 && has(seven.ecx, 11);
  cpu.avx512_bf16 = cpu.avx512 && has(seven_one.eax, 5);
  cpu.avx_vnni = cpu.avx2 && has(seven_one.eax, 4);
  cpu.amx_tile = tiles && has(seven.edx, 24);
  cpu.amx_int8 = cpu.amx_tile && has(seven.edx, 25);
  cpu.amx_bf16 = cpu.amx_tile && has(seven.edx, 22);
}

#endif

int64_t read_cache(int name) {
  long bytes = sysconf(name);
  return bytes > 0 ? bytes : 0;
}

Cpu read_cpu() {
  Cpu cpu;
  cpu.model_name = "unknown processor";
#if defined(__x86_64__)
  cpu.model_name = read_model_name();
  read_features(cpu);
#endif
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) cpu.num_threads = CPU_COUNT(&allowed);
  cpu.l1d_bytes = read_cache(_SC_LEVEL1_DCACHE_SIZE);
  cpu.l2_bytes = read_cache(_SC_LEVEL2_CACHE_SIZE);
  cpu.l3_bytes = read_cache(_SC_LEVEL3_CACHE_SIZE);
  return cpu;
}

}  // namespace

std::vector<std::string> Cpu::flags() const {
  std::vector<std::string> names;
  auto add = [&](bool set, const char* name) {
    if (set) names.emplace_back(name);
  };
  add(avx2, "avx2");
  add(avx512, "avx512");
  add(avx512_vnni, "avx512_vnni");
  add(avx512_bf16, "avx512_bf16");
  add(avx_vnni, "avx_vnni");
  add(amx_tile, "amx_tile");
  add(amx_int8, "amx_int8");
  add(amx_bf16, "amx_bf16");
  return names;
}

const Cpu& get_cpu() {
  static const Cpu cpu = read_cpu();
  return cpu;
}

bool may_use_tiles() {
#if defined(__x86_64__)
  constexpr long kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
  static const bool granted =
      get_cpu().amx_tile && syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
  return granted;
#else
  return false;
#endif
}

}  // namespace sluice::kernels
