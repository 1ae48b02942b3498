// Rotary position embeddings: which pairs of a head turn together, and how fast. Every scaling
// method in use (linear, llama3, YaRN, LongRoPE, per-pair factors) comes down to one frequency a
// pair and one magnitude, computed here once at load in double precision; the forward pass knows
// only those two. Values, no state.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace sluice::llm {

enum class RopeKind : uint8_t {
  kNone,
  kNeox,         // (x[i], x[i + dims / 2])
  kInterleaved,  // (x[2i], x[2i + 1])
};

enum class RopeScalingKind : uint8_t { kNone, kLinear, kLlama3, kYarn };

struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  double factor = 1;
  double original_positions = 0;                               // llama3, yarn
  double low_frequency_factor = 1, high_frequency_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;                        // yarn
  bool truncate = true;             // yarn: whole pairs as bounds of the ramp
  std::optional<double> magnitude;  // nullopt: 1, or yarn's 0.1 ln(factor) + 1
  std::vector<double>
      divisors;  // [dims / 2] or empty: one more division a pair (rope_freqs, LongRoPE)
};

struct Rope {
  RopeKind kind = RopeKind::kNone;
  int64_t dims = 0;                 // leading dimensions of a head that turn, even
  std::vector<double> frequencies;  // [dims / 2] radians a position
  double magnitude = 1;             // multiplies cosines and sines

  bool operator==(const Rope&) const = default;
};

// REQUIRES: dims even and positive, base > 0, scaling.factor > 0, divisors empty or dims / 2
// positive ones.
Rope make_rope(RopeKind kind, int64_t dims, double base, const RopeScaling& scaling);

}  // namespace sluice::llm
