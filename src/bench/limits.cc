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

constexpr int64_t kPeakUs = 300'000;  // for the three kinds of arithmetic together
constexpr int64_t kFillUs = 300'000;  // for filling the buffer: new pages of a virtual machine are slow to come
constexpr int64_t kReadUs = 150'000;
constexpr int64_t kMegabyte = 1 << 20;
constexpr int64_t kWindowBytes = 64 * kMegabyte;

double seconds_since(int64_t begin_us) {
  return static_cast<double>(std::max<int64_t>(1, monotonic_us() - begin_us)) / 1e6;
}

enum class Weights { kInt8, kBf16, kF32 };
Weights kind_of(double bytes_per_weight) {
  return bytes_per_weight <= 1.5 ? Weights::kInt8 : bytes_per_weight <= 3 ? Weights::kBf16 : Weights::kF32;
}

// Four times the last cache: of a buffer that is read in turn a cache may keep some part, and virtual machines have the
// host's, which is large and not theirs alone. At most a quarter of what is available.
int64_t buffer_bytes(int64_t available_bytes) {
  int64_t wanted = std::clamp(4 * kernels::get_cpu().l3_bytes, 512 * kMegabyte, 3072 * kMegabyte);
  return std::min(wanted, available_bytes / 4) / kWindowBytes * kWindowBytes;
}

// The median of windows of a few milliseconds, in the order of the buffer, once all of it has been read before: a
// neighbour who takes a core for a moment spoils some windows, what a cache kept flatters some, neither the figure.
double measure_read_bandwidth(ThreadPool& pool, int64_t available_bytes) {
  const int64_t wanted = buffer_bytes(available_bytes);
  if (wanted < 4 * kWindowBytes) return 0;
  void* memory = mmap(nullptr, static_cast<size_t>(wanted), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  madvise(memory, static_cast<size_t>(wanted), MADV_HUGEPAGE);
  auto* data = static_cast<char*>(memory);
  // Untouched pages would all be the same page of zeros. Where the system is slow to give pages the buffer is smaller.
  int64_t bytes = 0;
  const int64_t fill_us = monotonic_us();
  while (bytes < wanted && (bytes < 4 * kWindowBytes || monotonic_us() - fill_us < kFillUs)) {
    pool.parallel_for(kWindowBytes / kMegabyte, 4, [&](int64_t begin, int64_t end, int) {
      std::memset(data + bytes + begin * kMegabyte, 1, static_cast<size_t>((end - begin) * kMegabyte));
    });
    bytes += kWindowBytes;
  }
  std::atomic<uint64_t> sum{0};
  std::vector<double> first, rates;  // of the first pass, of all others
  const int64_t start_us = monotonic_us();
  for (int64_t at = 0; monotonic_us() - start_us < kReadUs; at = (at + kWindowBytes) % bytes) {
    int64_t begin_us = monotonic_us();
    pool.parallel_for(kWindowBytes / kMegabyte, 4, [&](int64_t begin, int64_t end, int) {
      sum.fetch_xor(kernels::read_stream(data + at + begin * kMegabyte, static_cast<size_t>((end - begin) * kMegabyte)),
                    std::memory_order_relaxed);
    });
    std::vector<double>& pass = static_cast<int64_t>(first.size()) * kWindowBytes < bytes ? first : rates;
    pass.push_back(static_cast<double>(kWindowBytes) / seconds_since(begin_us));
  }
  munmap(memory, static_cast<size_t>(wanted));
  if (rates.size() < 3) rates = first;  // a slow memory, no time for more
  std::nth_element(rates.begin(), rates.begin() + static_cast<int64_t>(rates.size() / 2), rates.end());
  return rates[rates.size() / 2];
}

// All threads at once, for what they share; of each the best of many short passes, for the same reason.
double measure_peak(ThreadPool& pool, const kernels::PeakLoop& loop) {
  std::vector<double> best(static_cast<size_t>(pool.num_threads()));
  pool.run([&](int worker) {
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

double Limits::peak_for(double bytes_per_weight) const {
  Weights kind = kind_of(bytes_per_weight);
  return kind == Weights::kInt8 ? int8_per_second : kind == Weights::kBf16 ? bf16_per_second : f32_per_second;
}

const char* Limits::peak_name_for(double bytes_per_weight) const {
  Weights kind = kind_of(bytes_per_weight);
  return kind == Weights::kInt8 ? int8_name : kind == Weights::kBf16 ? bf16_name : f32_name;
}

Limits measure_limits(ThreadPool& pool, int64_t available_bytes) {
  Limits limits;
  limits.read_bytes_per_second = measure_read_bandwidth(pool, available_bytes);
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
