#include "bench/limits.h"

#include <gtest/gtest.h>

#include "kernels/peak.h"

namespace sluice::bench {
namespace {

TEST(Limits, PeakLoopsRunAndReadingReadsAll) {
  for (kernels::PeakLoop loop : {kernels::get_peak_int8(), kernels::get_peak_bf16(), kernels::get_peak_f32()}) {
    EXPECT_GT(loop.operations_per_round, 0) << loop.name;
    loop.run(100);
  }
  alignas(64) uint8_t bytes[1024] = {};
  for (size_t i = 0; i < sizeof bytes; ++i) {
    const uint64_t before = kernels::read_stream(bytes, sizeof bytes);
    EXPECT_EQ(kernels::read_four_streams(bytes, sizeof bytes), before);
    bytes[i] = static_cast<uint8_t>(i % 255 + 1);
    EXPECT_NE(kernels::read_stream(bytes, sizeof bytes), before) << i;
    EXPECT_NE(kernels::read_four_streams(bytes, sizeof bytes), before) << i;
  }
}

TEST(Limits, FiguresArePositive) {
  // Alone, and more threads than the smaller machines have cores.
  for (int num_threads : {1, 5}) {
    ThreadPool pool(num_threads);
    MemoryProbe memory(pool, int64_t{1} << 30);
    Limits limits = measure_limits(pool, memory);
    EXPECT_GT(limits.int8_per_second, 0);
    EXPECT_GT(limits.f32_per_second, 0);
    EXPECT_GT(limits.bf16_per_second, 0);
    EXPECT_EQ(limits.peak_for(0.6), limits.int8_per_second);
    EXPECT_EQ(limits.peak_for(2), limits.bf16_per_second);
    EXPECT_EQ(limits.peak_for(4), limits.f32_per_second);
    EXPECT_GT(limits.read_bytes_per_second, 0);
    EXPECT_GT(memory.measure(), 0);
  }
}

TEST(Limits, TooLittleMemoryIsNoBandwidth) {
  ThreadPool pool(2);
  for (int64_t available : {int64_t{0}, int64_t{1}, int64_t{512} << 20}) {
    MemoryProbe memory(pool, available);
    EXPECT_EQ(memory.measure(), 0);
  }
}

}  // namespace
}  // namespace sluice::bench
