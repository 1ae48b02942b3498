#include "graph/passes/axis_trace.h"

#include <algorithm>
#include <optional>

namespace sluice::graph::passes {
namespace {

// a / b where that is exact whatever the symbols are.
std::optional<Dim> divide(const Dim& a, const Dim& b) {
  if (b.is_known() && b.value() <= 0) return std::nullopt;
  const Dim quotient = floor_divide(a, b);
  return quotient * b == a ? std::optional(quotient) : std::nullopt;
}

}  // namespace

AxisTrace::AxisTrace(const Dims& base) {
  for (const Dim& dim : base) {
    base_.emplace_back();
    if (dim == Dim(1)) continue;
    base_.back().push_back(static_cast<int>(sizes_.size()));
    sizes_.push_back(dim);
  }
  axes_ = base_;
}

AxisTrace::Atoms AxisTrace::flatten(const std::vector<Atoms>& axes) {
  Atoms flat;
  for (const Atoms& atoms : axes) flat.insert(flat.end(), atoms.begin(), atoms.end());
  return flat;
}

Dim AxisTrace::size_of(const Atoms& atoms) const {
  Dim size = 1;
  for (const int atom : atoms) size *= sizes_[static_cast<size_t>(atom)];
  return size;
}

void AxisTrace::split(int atom, const Dim& first, const Dim& second) {
  const int made = static_cast<int>(sizes_.size());
  sizes_[static_cast<size_t>(atom)] = first;
  sizes_.push_back(second);
  for (auto* axes : {&base_, &axes_}) {
    for (Atoms& atoms : *axes) {
      const auto found = std::find(atoms.begin(), atoms.end(), atom);
      if (found != atoms.end()) atoms.insert(found + 1, made);
    }
  }
}

bool AxisTrace::reshape(const Dims& to) {
  Atoms flat = flatten(axes_);
  axes_ = {flat};  // while atoms are split
  std::vector<Atoms> made;
  size_t next = 0;
  for (const Dim& dim : to) {
    made.emplace_back();
    Dim rest = dim;
    while (!(rest == Dim(1))) {
      if (next == flat.size()) return false;
      const int atom = flat[next];
      const Dim size = sizes_[static_cast<size_t>(atom)];
      if (const std::optional<Dim> more = divide(rest, size)) {
        rest = *more;
      } else if (const std::optional<Dim> left = divide(size, rest)) {
        split(atom, rest, *left);
        flat.insert(flat.begin() + static_cast<std::ptrdiff_t>(next) + 1, static_cast<int>(sizes_.size()) - 1);
        rest = 1;
      } else {
        return false;
      }
      made.back().push_back(atom);
      ++next;
    }
  }
  if (next != flat.size()) return false;
  axes_ = std::move(made);
  return true;
}

bool AxisTrace::select(size_t axis, int64_t index, bool keeps_axis) {
  if (selected_.atom >= 0 || axis >= axes_.size() || axes_[axis].size() != 1) return false;
  selected_ = {axes_[axis][0], index};
  if (keeps_axis)
    axes_[axis].clear();
  else
    axes_.erase(axes_.begin() + static_cast<std::ptrdiff_t>(axis));
  return true;
}

bool AxisTrace::transpose(const std::vector<int64_t>& order) {
  if (order.empty()) {
    std::reverse(axes_.begin(), axes_.end());
    return true;
  }
  if (order.size() != axes_.size()) return false;
  std::vector<Atoms> made;
  for (const int64_t axis : order) {
    if (axis < 0 || axis >= static_cast<int64_t>(axes_.size())) return false;
    made.push_back(axes_[static_cast<size_t>(axis)]);
  }
  axes_ = std::move(made);
  return true;
}

}  // namespace sluice::graph::passes
