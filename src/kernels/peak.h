// Loops that reach what one core of this processor can do, to compare real kernels with: dot products of 8-bit
// integers, multiply-adds of floats, reading memory. The arithmetic loops stay in registers and compute nothing of use.
// Each is chosen once by what get_cpu() found, whatever SLUICE_ISA says: the limit is the machine's, not the fill's.
// They know no clock and no threads; bench/limits.h runs them on a pool, benchmarks/kernels_bench.cc on one core.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace sluice::kernels {

struct PeakLoop {
  const char* name;              // "avx512 vnni", the instructions it uses
  double operations_per_round;   // multiplications and additions counted as one each, as FLOP are
  void (*run)(int64_t rounds);
};

PeakLoop get_peak_int8();  // sums of products of 8-bit integers
PeakLoop get_peak_bf16();  // of bf16 pairs; where there are none, the f32 loop
PeakLoop get_peak_f32();

// Two ways to read [data, data + bytes) as fast as one core can: in order, and four quarters of it at a time. Which is
// faster is the processor's matter: of some the prefetchers lose their way between streams (Zen 5 then reads half as
// fast), of others one stream does not fill the way to memory. Both return the same sum, which depends on all of it.
// REQUIRES: `data` aligned to 64, `bytes` a multiple of 256.
uint64_t read_stream(const void* data, size_t bytes);
uint64_t read_four_streams(const void* data, size_t bytes);

}  // namespace sluice::kernels
