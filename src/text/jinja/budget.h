// What one rendering may cost: steps, live bytes and depth.
//
// A template is code from a stranger, so every loop of this folder charges steps and every string, list and dict charges
// its bytes; exceeding a limit is an Error that names the limit. The budget of the rendering in progress is reached
// through a thread-local pointer set by BudgetScope, because values charge and refund from constructors and destructors
// that have no other way to it. Constants of a compiled template are made outside any rendering and charge nothing.
// One rendering runs on one thread from start to end.
#pragma once

#include <cstddef>
#include <cstdint>

#include "text/jinja/jinja.h"

namespace sluice::jinja {

// Containers nested deeper than this cannot be built, so that printing, comparing and freeing them stays shallow.
inline constexpr int kMaxNesting = 200;
// Bytes of values alive at one moment.
inline constexpr int64_t kMaxLiveBytes = int64_t{256} << 20;
// Bytes written for the price of one step: bounds copying, not only counting.
inline constexpr int64_t kBytesPerStep = 64;

struct Budget {
  explicit Budget(const Limits& limits)
      : limits(limits), steps_left(limits.max_steps), frames_left(int64_t{limits.max_depth} * 10) {}
  Limits limits;
  int64_t steps_left;
  int64_t frames_left;  // nested evaluations on the C++ stack
  int64_t live_bytes = 0;
};

class BudgetScope {
 public:
  explicit BudgetScope(Budget& budget);
  ~BudgetScope();
  BudgetScope(const BudgetScope&) = delete;
  BudgetScope& operator=(const BudgetScope&) = delete;

 private:
  Budget* previous_;
};

// Null outside a rendering.
Budget* current_budget();

void charge_steps(int64_t steps);
// Counts `bytes` as alive until refund_bytes().
void charge_bytes(int64_t bytes);
void refund_bytes(int64_t bytes);
// Throws when a string of `bytes` would be longer than the output may be. Call before building it.
void check_string_size(int64_t bytes);
// Throws when a list of `count` elements would not fit.
void check_list_size(int64_t count);

// One nested evaluation or comparison.
class FrameGuard {
 public:
  FrameGuard();
  ~FrameGuard();
  FrameGuard(const FrameGuard&) = delete;
  FrameGuard& operator=(const FrameGuard&) = delete;

 private:
  Budget* budget_;
};

}  // namespace sluice::jinja
