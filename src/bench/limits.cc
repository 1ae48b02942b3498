#include "bench/limits.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "base/clock.h"
#include "kernels/cpu.h"
#include "kernels/peak.h"

namespace sluice::bench {
namespace {

constexpr int64_t kPeakUs = 300'000;   // for the three kinds of arithmetic together
constexpr int64_t kFillUs = 1'000'000;  // for filling the buffer: new pages of a virtual machine are slow to come
constexpr int64_t kReadUs = 200'000;
constexpr int kPassesMin = 4;
constexpr int64_t kMegabyte = 1 << 20;
constexpr int64_t kWindowBytes = 64 * kMegabyte;
constexpr int64_t kChunkBytes = 2 * kMegabyte;  // that a thread takes at a time

double seconds_since(int64_t begin_us) {
  return static_cast<double>(std::max<int64_t>(1, monotonic_us() - begin_us)) / 1e6;
}

enum class Weights { kInt8, kBf16, kF32 };
Weights kind_of(double bytes_per_weight) {
  return bytes_per_weight <= 1.5 ? Weights::kInt8 : bytes_per_weight <= 3 ? Weights::kBf16 : Weights::kF32;
}

// Eight times the last caches: of a buffer that is read in turn a cache may keep its own size, and seems that faster.
int64_t choose_buffer_bytes(int64_t available_bytes) {
  const int64_t wanted = std::clamp(8 * kernels::get_cpu().l3_bytes, 256 * kMegabyte, 2048 * kMegabyte);
  return std::min(wanted, available_bytes / 4) / kWindowBytes * kWindowBytes;
}

// All threads at once, for what they share; of each the best of many short passes, since a neighbour only ever makes it
// slower. Threads beyond the cores have nothing to add: each one's best would be that of a core it had for itself.
double measure_peak(ThreadPool& pool, const kernels::PeakLoop& loop) {
  std::vector<double> best(static_cast<size_t>(std::min(pool.num_threads(), num_available_cores())));
  pool.run([&](int worker) {
    if (static_cast<size_t>(worker) >= best.size()) return;
    int64_t rounds = 64;
    double rate = 0;
    for (const int64_t start_us = monotonic_us(); monotonic_us() - start_us < kPeakUs / 3;) {
      int64_t begin_us = monotonic_us();
      loop.run(rounds);
      double seconds = seconds_since(begin_us);
      if (seconds < 0.0005) {
        rounds *= 2;  // too short for the clock
        continue;
      }
      rate = std::max(rate, loop.operations_per_round * static_cast<double>(rounds) / seconds);
    }
    best[static_cast<size_t>(worker)] = rate;
  });
  double sum = 0;
  for (double rate : best) sum += rate;
  return sum;
}

}  // namespace

MemoryProbe::MemoryProbe(ThreadPool& pool, int64_t available_bytes) : pool_(pool) {
  const int64_t wanted = choose_buffer_bytes(available_bytes);
  if (wanted < 4 * kWindowBytes) return;
  void* memory = mmap(nullptr, static_cast<size_t>(wanted), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return;
  madvise(memory, static_cast<size_t>(wanted), MADV_HUGEPAGE);
  data_ = static_cast<char*>(memory);
  mapped_bytes_ = wanted;
  // Untouched pages would all be the same page of zeros. Where the system is slow to give pages the buffer is smaller.
  const int64_t start_us = monotonic_us();
  while (bytes_ < wanted && (bytes_ < 4 * kWindowBytes || monotonic_us() - start_us < kFillUs)) {
    pool.parallel_for(kWindowBytes / kChunkBytes, 1, [&](int64_t begin, int64_t end, int) {
      std::memset(data_ + bytes_ + begin * kChunkBytes, 1, static_cast<size_t>((end - begin) * kChunkBytes));
    });
    bytes_ += kWindowBytes;
  }
}

MemoryProbe::~MemoryProbe() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(mapped_bytes_));
}

// The best pass and not the median: it is a limit that is wanted, and a neighbour only ever makes it less. Whole passes
// and not parts of them, whose best would be the part that a cache has kept.
double MemoryProbe::measure() {
  if (data_ == nullptr) return 0;
  std::atomic<uint64_t> sum{0};
  double best = 0;
  auto* best_read = kernels::read_stream;
  const int64_t start_us = monotonic_us();
  for (int pass = 0; pass < kPassesMin || monotonic_us() - start_us < kReadUs; ++pass) {
    // Both ways in turn at first, then the one that was better.
    auto* read = pass >= kPassesMin ? best_read : pass % 2 == 0 ? kernels::read_stream : kernels::read_four_streams;
    const int64_t begin_us = monotonic_us();
    pool_.parallel_for(bytes_ / kChunkBytes, 1, [&](int64_t begin, int64_t end, int) {
      uint64_t own = 0;
      for (; begin < end; ++begin) own ^= read(data_ + begin * kChunkBytes, static_cast<size_t>(kChunkBytes));
      sum.fetch_xor(own, std::memory_order_relaxed);
    });
    const double rate = static_cast<double>(bytes_) / seconds_since(begin_us);
    if (rate > best) best_read = read;
    best = std::max(best, rate);
  }
  return best;
}

double Limits::peak_for(double bytes_per_weight) const {
  Weights kind = kind_of(bytes_per_weight);
  return kind == Weights::kInt8 ? int8_per_second : kind == Weights::kBf16 ? bf16_per_second : f32_per_second;
}

Limits measure_limits(ThreadPool& pool, MemoryProbe& memory) {
  Limits limits;
  limits.read_bytes_per_second = memory.measure();
  kernels::PeakLoop int8 = kernels::get_peak_int8(), bf16 = kernels::get_peak_bf16(), f32 = kernels::get_peak_f32();
  limits.int8_per_second = measure_peak(pool, int8);
  limits.f32_per_second = measure_peak(pool, f32);
  limits.bf16_per_second = bf16.run == f32.run ? limits.f32_per_second : measure_peak(pool, bf16);
  limits.int8_name = int8.name;
  limits.bf16_name = bf16.name;
  limits.f32_name = f32.name;
  return limits;
}

json::object limits_json(const Limits& limits) {
  return {{"read_gb_per_second", limits.read_bytes_per_second / 1e9},
          {"int8_tops", limits.int8_per_second / 1e12},
          {"int8_with", limits.int8_name},
          {"bf16_gflops", limits.bf16_per_second / 1e9},
          {"bf16_with", limits.bf16_name},
          {"f32_gflops", limits.f32_per_second / 1e9},
          {"f32_with", limits.f32_name}};
}

}  // namespace sluice::bench
