// Largest numbers believed from a checkpoint's header. Far above every known model; they keep sums
// and products of them within 64 bits and bound what is built before the tensors, which prove the
// numbers, have been looked at.
#pragma once

#include <cstdint>

namespace sluice::llm {

inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxWidth = 1 << 20;
inline constexpr int64_t kMaxHeads = 4096;
inline constexpr int64_t kMaxHeadDim = 4096;
inline constexpr int64_t kMaxFfnWidth = 1 << 24;
inline constexpr int64_t kMaxExperts = 4096;
inline constexpr int64_t kMaxVocab = 1 << 26;
inline constexpr int64_t kMaxPositions = int64_t{1} << 31;

}  // namespace sluice::llm
