#include "graph/memory_plan.h"

#include <algorithm>
#include <numeric>

namespace sluice::graph {

MemoryPlan plan_memory(const std::vector<MemoryRequest>& requests) {
  constexpr int64_t kAlignment = 64;
  auto rounded = [](int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; };
  MemoryPlan plan;
  plan.offsets.assign(requests.size(), 0);
  std::vector<size_t> order(requests.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return requests[a].bytes > requests[b].bytes; });
  std::vector<size_t> placed;  // by offset
  for (const size_t i : order) {
    const MemoryRequest& request = requests[i];
    plan.bytes_without_reuse += rounded(request.bytes);
    int64_t offset = 0;
    for (const size_t other : placed) {
      const bool meets = requests[other].first <= request.last && request.first <= requests[other].last;
      if (!meets) continue;
      if (plan.offsets[other] >= offset + rounded(request.bytes)) break;
      offset = std::max(offset, plan.offsets[other] + rounded(requests[other].bytes));
    }
    plan.offsets[i] = offset;
    plan.bytes = std::max(plan.bytes, offset + rounded(request.bytes));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), i,
                                   [&](size_t a, size_t b) { return plan.offsets[a] < plan.offsets[b]; }),
                  i);
  }
  return plan;
}

}  // namespace sluice::graph
