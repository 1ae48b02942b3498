#include "text/jinja/budget.h"

#include "base/error.h"

namespace sluice::jinja {
namespace {

thread_local Budget* t_budget = nullptr;

}  // namespace

BudgetScope::BudgetScope(Budget& budget) : previous_(t_budget) { t_budget = &budget; }
BudgetScope::~BudgetScope() { t_budget = previous_; }

Budget* current_budget() { return t_budget; }

void charge_steps(int64_t steps) {
  if (t_budget == nullptr) return;
  t_budget->steps_left -= steps;
  if (t_budget->steps_left < 0) {
    fail(Code::kInvalidArgument, "the template ran for more than {} steps", t_budget->limits.max_steps);
  }
}

void charge_bytes(int64_t bytes) {
  if (t_budget == nullptr) return;
  t_budget->live_bytes += bytes;
  if (t_budget->live_bytes > kMaxLiveBytes) {
    fail(Code::kInvalidArgument, "the template's values need more than {} MiB", kMaxLiveBytes >> 20);
  }
  charge_steps(bytes / kBytesPerStep);
}

void refund_bytes(int64_t bytes) {
  if (t_budget != nullptr) t_budget->live_bytes -= bytes;
}

void check_string_size(int64_t bytes) {
  int64_t limit = t_budget != nullptr ? t_budget->limits.max_output_bytes : Limits{}.max_output_bytes;
  if (bytes > limit) fail(Code::kInvalidArgument, "the template makes a text of more than {} bytes", limit);
}

void check_list_size(int64_t count) {
  // An element takes 48 bytes; a list may use a quarter of what may be alive.
  int64_t limit = kMaxLiveBytes / 4 / 48;
  if (count > limit) fail(Code::kInvalidArgument, "the template makes a list of more than {} elements", limit);
}

FrameGuard::FrameGuard() : budget_(t_budget) {
  if (budget_ == nullptr) return;
  if (--budget_->frames_left < 0) {
    ++budget_->frames_left;
    fail(Code::kInvalidArgument, "the template nests too deeply (limit {})", budget_->limits.max_depth);
  }
}

FrameGuard::~FrameGuard() {
  if (budget_ != nullptr) ++budget_->frames_left;
}

}  // namespace sluice::jinja
