#include "kernels/cpu.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>

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

constexpr int64_t kCacheBytesMax = int64_t{1} << 40;

// The first line of a small file; empty if there is none.
std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "48K", "32768K", "1M", "4096"; 0 for anything else.
int64_t parse_cache_bytes(std::string_view text) {
  int64_t bytes = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bytes);
  const std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  const int shift = unit == "K" ? 10 : unit == "M" ? 20 : unit == "G" ? 30 : 0;
  if (error != std::errc() || (shift == 0 && !unit.empty()) || bytes < 0 || bytes > kCacheBytesMax >> shift) return 0;
  return bytes << shift;
}

// Whether "0-3,8" has the number.
bool list_has(std::string_view list, int id) {
  while (!list.empty()) {
    const std::string_view range = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), range.size() + 1));
    int first = 0, last = 0;
    const char* end = range.data() + range.size();
    auto [used, error] = std::from_chars(range.data(), end, first);
    if (error != std::errc()) return false;
    last = first;
    if (used != end && *used == '-') std::from_chars(used + 1, end, last);
    if (first <= id && id <= last) return true;
  }
  return false;
}

struct Cache {
  int64_t bytes = 0;
  std::string shared_by;  // "0-3,8"; empty: it does not say
};

// What one processor sees as its cache for data of a level.
std::optional<Cache> find_cache(const std::string& folder, int cpu_id, int level) {
  constexpr int kIndexMax = 16;
  for (int index = 0; index < kIndexMax; ++index) {
    const std::string cache =
        folder + "/cpu" + std::to_string(cpu_id) + "/cache/index" + std::to_string(index) + "/";
    const std::string found = read_line(cache + "level");
    if (found.empty()) return std::nullopt;
    if (found != std::to_string(level) || read_line(cache + "type") == "Instruction") continue;
    return Cache{parse_cache_bytes(read_line(cache + "size")), read_line(cache + "shared_cpu_list")};
  }
  return std::nullopt;
}

int64_t read_sysconf(int name) {
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
  std::vector<int> cpu_ids;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    for (int id = 0; id < CPU_SETSIZE; ++id) {
      if (CPU_ISSET(id, &allowed)) cpu_ids.push_back(id);
    }
    cpu.num_threads = static_cast<int>(cpu_ids.size());
  } else {
    cpu_ids.push_back(0);
  }
  const CacheSizes sizes = read_cache_sizes("/sys/devices/system/cpu", cpu_ids);
  cpu.l1d_bytes = sizes.l1d_bytes > 0 ? sizes.l1d_bytes : read_sysconf(_SC_LEVEL1_DCACHE_SIZE);
  cpu.l2_bytes = sizes.l2_bytes > 0 ? sizes.l2_bytes : read_sysconf(_SC_LEVEL2_CACHE_SIZE);
  cpu.l3_bytes = sizes.l3_bytes > 0 ? sizes.l3_bytes : read_sysconf(_SC_LEVEL3_CACHE_SIZE);
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

CacheSizes read_cache_sizes(const std::string& folder, const std::vector<int>& cpu_ids) {
  CacheSizes sizes;
  if (cpu_ids.empty()) return sizes;
  if (std::optional<Cache> l1d = find_cache(folder, cpu_ids.front(), 1)) sizes.l1d_bytes = l1d->bytes;
  if (std::optional<Cache> l2 = find_cache(folder, cpu_ids.front(), 2)) sizes.l2_bytes = l2->bytes;
  // One look for each cache and not for each processor: there may be hundreds, and every start of the program looks.
  std::vector<std::string> seen;
  for (int id : cpu_ids) {
    if (std::any_of(seen.begin(), seen.end(), [&](const std::string& list) { return list_has(list, id); })) continue;
    std::optional<Cache> l3 = find_cache(folder, id, 3);
    if (!l3) continue;
    sizes.l3_bytes += l3->bytes;
    if (l3->shared_by.empty()) break;  // which others have the same one is not told: it counts once
    seen.push_back(l3->shared_by);
  }
  return sizes;
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
