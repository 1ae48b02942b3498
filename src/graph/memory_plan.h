// Where tensors lie in one block of memory, so that those that are never alive at once share it.
//
// Larger ones are placed first, each at the lowest offset at which it meets nobody (Pisarchyk and Lee, "Efficient
// memory management for deep neural net inference", 2020, "greedy by size"). Pure.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice::graph {

struct MemoryRequest {
  int64_t bytes = 0;
  int first = 0, last = 0;  // steps between which it is alive, both included
};

struct MemoryPlan {
  std::vector<int64_t> offsets;  // of each request, multiples of 64
  int64_t bytes = 0;             // of the block
  int64_t bytes_without_reuse = 0;
};

MemoryPlan plan_memory(const std::vector<MemoryRequest>& requests);

}  // namespace sluice::graph
