// Whatever is asked for, nothing that is alive at once overlaps, and the block is little more than it has to be.
#include "graph/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"

namespace sluice::graph {
namespace {

int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// The most that is alive in one step.
int64_t lower_bound(const std::vector<MemoryRequest>& requests) {
  int64_t most = 0;
  for (const MemoryRequest& at : requests) {
    int64_t alive = 0;
    for (const MemoryRequest& r : requests) {
      if (r.first <= at.first && at.first <= r.last) alive += rounded(r.bytes);
    }
    most = std::max(most, alive);
  }
  return most;
}

// The block, as a multiple of the least that is possible.
double check(const std::vector<MemoryRequest>& requests) {
  const MemoryPlan plan = plan_memory(requests);
  EXPECT_EQ(plan.offsets.size(), requests.size());
  int64_t end = 0, sum = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const int64_t begin = plan.offsets[i];
    EXPECT_TRUE(begin >= 0 && begin % 64 == 0) << begin;
    end = std::max(end, begin + rounded(requests[i].bytes));
    sum += rounded(requests[i].bytes);
    for (size_t j = 0; j < i; ++j) {
      const bool meets = requests[i].first <= requests[j].last && requests[j].first <= requests[i].last;
      const bool overlaps = begin < plan.offsets[j] + requests[j].bytes && plan.offsets[j] < begin + requests[i].bytes;
      EXPECT_FALSE(meets && overlaps) << i << " and " << j;
    }
  }
  EXPECT_EQ(plan.bytes, end);
  EXPECT_EQ(plan.bytes_without_reuse, sum);
  const int64_t least = lower_bound(requests);
  EXPECT_GE(plan.bytes, least);
  return least == 0 ? 1 : static_cast<double>(plan.bytes) / static_cast<double>(least);
}

TEST(MemoryPlan, Few) {
  EXPECT_EQ(plan_memory({}).bytes, 0);
  EXPECT_EQ(plan_memory({{.bytes = 1, .first = 0, .last = 0}}).bytes, 64);
  // One after the other share; a chain, where neighbours meet, takes turns.
  EXPECT_EQ(plan_memory({{.bytes = 64, .first = 0, .last = 0}, {.bytes = 64, .first = 1, .last = 1}}).bytes, 64);
  std::vector<MemoryRequest> chain;
  for (int i = 0; i < 100; ++i) chain.push_back({.bytes = 1000, .first = i, .last = i + 1});
  EXPECT_EQ(plan_memory(chain).bytes, 2048);
  check({{.bytes = 0, .first = 0, .last = 3},
         {.bytes = 100, .first = 1, .last = 2},
         {.bytes = 0, .first = 1, .last = 1}});
}

TEST(MemoryPlan, RandomLifetimes) {
  double worst = 0, total = 0;
  constexpr int kPlans = 300;
  for (uint64_t seed = 0; seed < kPlans; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const int num_steps = 1 + static_cast<int>(random.below(40));
    std::vector<MemoryRequest> requests(random.below(80));
    for (MemoryRequest& request : requests) {
      request.bytes = static_cast<int64_t>(random.below(1u << (1 + random.below(14))));
      request.first = static_cast<int>(random.below(static_cast<uint64_t>(num_steps)));
      const uint64_t left = static_cast<uint64_t>(num_steps - request.first);
      request.last =
          request.first + static_cast<int>(random.below(random.below(5) == 0 ? left : std::min<uint64_t>(left, 4)));
    }
    const double ratio = check(requests);
    worst = std::max(worst, ratio);
    total += ratio;
    if (HasFailure()) return;
  }
  EXPECT_LT(worst, 1.6);
  EXPECT_LT(total / kPlans, 1.1);
}

}  // namespace
}  // namespace sluice::graph
