// Philox4x32-10, a counter-based random generator (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
// The n-th number of a stream is a pure function of (seed, stream, n), so a request's draws do not depend on what else
// is in the batch, nor on how often it was preempted.
#pragma once

#include <array>
#include <cstdint>

namespace sluice {

inline std::array<uint32_t, 4> philox(uint64_t seed, uint64_t stream, uint64_t counter) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = 0xD2511F53ull * c0;
    uint64_t p1 = 0xCD9E8D57ull * c2;
    uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// The counter-th uniform number in [0, 1) of a stream, with 53 random bits.
inline double uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
  std::array<uint32_t, 4> bits = philox(seed, stream, counter);
  return static_cast<double>(((static_cast<uint64_t>(bits[0]) << 32) | bits[1]) >> 11) * 0x1.0p-53;
}

// A sequential generator over one stream, for tests, simulators and random ids.
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}
  uint64_t next() {
    std::array<uint32_t, 4> bits = philox(seed_, stream_, counter_++);
    return (static_cast<uint64_t>(bits[0]) << 32) | bits[1];
  }
  // Uniform in [0, bound). REQUIRES: bound > 0. (The modulo bias is below 2^-32 for bounds below 2^32.)
  uint64_t below(uint64_t bound) { return next() % bound; }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

 private:
  uint64_t seed_, stream_, counter_ = 0;
};

// 64 bits from the operating system.
uint64_t random_seed();

}  // namespace sluice
