// What this machine can do at most with the threads of a pool: bytes read per second from memory, operations per second
// in registers. Measured, not looked up, because clocks, neighbours and virtual machines decide; a report gives its
// figures as shares of these. Arithmetic takes a third of a second, each look at the memory about as long and once the
// time to fill the buffer. Call it while nothing else uses the pool. More threads than cores count as one for each core.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "base/thread_pool.h"

namespace sluice::bench {

// A buffer that no cache holds and the pool that reads it; 256 MB to 2 GB, a quarter of `available_bytes` at
// most. The bandwidth of a shared machine drifts within seconds, so measure() is for calling before and after what is
// compared with it. One thread at a time; the pool must outlive it.
class MemoryProbe {
 public:
  // `available_bytes`: what this process may still allocate.
  MemoryProbe(ThreadPool& pool, int64_t available_bytes);
  ~MemoryProbe();
  MemoryProbe(const MemoryProbe&) = delete;
  MemoryProbe& operator=(const MemoryProbe&) = delete;

  // Bytes read per second: the best of several passes over the buffer. 0: there was too little memory for one.
  double measure();

 private:
  ThreadPool& pool_;
  char* data_ = nullptr;      // [bytes_], written once so that every page is a page of its own
  int64_t mapped_bytes_ = 0, bytes_ = 0;
};

struct Limits {
  double read_bytes_per_second = 0;  // 0: there was too little memory for a buffer
  double int8_per_second = 0, bf16_per_second = 0, f32_per_second = 0;  // multiplications and additions
  const char* int8_name = "";        // the instructions that reached it: "avx512 vnni"
  const char* bf16_name = "";
  const char* f32_name = "";

  // The peak of the arithmetic that suits weights of that size: 8-bit integers up to 1.5 bytes a weight, bf16 up to 3.
  double peak_for(double bytes_per_weight) const;
};

Limits measure_limits(ThreadPool& pool, MemoryProbe& memory);
json::object limits_json(const Limits& limits);

}  // namespace sluice::bench
