// Where the axes of a tensor go in a chain of reshapes and transpositions.
//
// The axes of the first tensor (the base) are cut into atoms: factors of their sizes, in order, as fine as the chain
// needs them. [B, S, 768] reshaped to [B, S, 12, 64] has atoms B, S, 12 and 64; a transposition then permutes groups of
// them. Two tensors of a chain hold their elements in the same order if they list the same atoms in the same order,
// however these are grouped into axes. Axes of size 1 have no atoms. Sizes may be symbols: a cut is made only where the
// quotient is exact whatever they are.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/dim.h"

namespace sluice::graph::passes {

class AxisTrace {
 public:
  using Atoms = std::vector<int>;

  explicit AxisTrace(const Dims& base);
  // False if the atoms cannot be made to fit; the trace is then of no use any more.
  bool reshape(const Dims& to);
  // Output axis i is axis order[i]; empty: reversed.
  bool transpose(const std::vector<int64_t>& order);

  // Element `index` of the axis: its atom is gone from the axes, and its place in the base is selected(). False if the
  // axis is no single atom, or another one was selected before.
  bool select(size_t axis, int64_t index, bool keeps_axis);

  struct Selected {
    int atom = -1;  // none
    int64_t index = 0;
  };
  const Selected& selected() const { return selected_; }

  const std::vector<Atoms>& base() const { return base_; }
  const std::vector<Atoms>& axes() const { return axes_; }
  Dim size_of(const Atoms& atoms) const;
  // Whether the elements lie as those of the base do.
  bool keeps_order() const { return flatten(base_) == flatten(axes_); }

  static Atoms flatten(const std::vector<Atoms>& axes);

 private:
  void split(int atom, const Dim& first, const Dim& second);
  std::vector<Dim> sizes_;
  Selected selected_;
  std::vector<Atoms> base_, axes_;
};

}  // namespace sluice::graph::passes
