// What this machine can do at most with the threads of a pool: bytes read per second from memory, operations per second
// in registers. Measured, not looked up, because clocks, neighbours and virtual machines decide; a report gives its
// figures as shares of these. Takes up to half a second for memory and a third for arithmetic and, while it runs,
// up to three gigabytes of memory, a quarter of `available_bytes` at most. Call it while nothing else uses the pool.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "base/thread_pool.h"

namespace sluice::bench {

struct Limits {
  double read_bytes_per_second = 0;  // 0: there was too little memory for a buffer
  double int8_per_second = 0, bf16_per_second = 0, f32_per_second = 0;  // multiplications and additions
  const char* int8_name = "";        // the instructions that reached it: "avx512 vnni"
  const char* bf16_name = "";
  const char* f32_name = "";

  // The peak of the arithmetic that suits weights of that size: 8-bit integers up to 1.5 bytes a weight, bf16 up to 3.
  double peak_for(double bytes_per_weight) const;
  const char* peak_name_for(double bytes_per_weight) const;
};

// `available_bytes`: what this process may still allocate.
Limits measure_limits(ThreadPool& pool, int64_t available_bytes);
json::object limits_json(const Limits& limits);

}  // namespace sluice::bench
