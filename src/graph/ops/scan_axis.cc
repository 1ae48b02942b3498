// Operators that walk along one axis and keep count: ArgMax, ArgMin, CumSum, CumProd (ONNX operator specification).
//
// The tensor is seen as [outer, length, inner] around the axis. Of an innermost axis one row is walked at a time, of
// another one blocks of neighbouring columns. The first NaN counts as the largest and the smallest, as in NumPy.
// Running sums and products of float are carried in double; integers wrap around.
#include <limits>
#include <type_traits>

#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

constexpr int64_t kBlock = 256;  // columns walked at once

// Calls body(first, num_columns) for blocks of neighbouring lines along the axis: element k of line j lies at
// first + j + k * inner, j < num_columns <= kBlock.
template <typename Body>
void for_lines(ThreadPool& pool, const Shape& shape, int axis, Body&& body) {
  const int64_t outer = shape.count(0, axis), length = shape[axis], inner = shape.count(axis + 1, shape.rank());
  const int64_t blocks = (inner + kBlock - 1) / kBlock;
  const int64_t grain = std::max<int64_t>(1, kCheapGrain / std::max<int64_t>(1, length * std::min(inner, kBlock)));
  pool.parallel_for(outer * blocks, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t column = b % blocks * kBlock;
      body(b / blocks, column, std::min(kBlock, inner - column));
    }
  });
}

void infer_arg(InferContext& ctx) {
  check_element(ctx, 0, is_number, "numbers");
  if (!ctx.has_rank(0)) return ctx.set_output(0, ElementType::kI64);
  const size_t axis = static_cast<size_t>(ctx.axis(ctx.node().get_int("axis", 0), ctx.rank(0)));
  Dims dims = ctx.dims(0);
  if (ctx.node().get_int("keepdims", 1) != 0) dims[axis] = Dim(1);
  else dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(axis));
  ctx.set_output(0, ElementType::kI64, std::move(dims));
}

template <typename T, bool is_max, bool takes_last>
void find_extremes(RunContext& ctx, const Tensor& x, int axis, int64_t* z) {
  const int64_t length = x.dim(axis), inner = x.shape().count(axis + 1, x.rank());
  const T* from = x.data<T>();
  for_lines(ctx.pool(), x.shape(), axis, [&](int64_t outer, int64_t column, int64_t n) {
    const T* first = from + outer * length * inner + column;
    int64_t* indices = z + outer * inner + column;
    T best[kBlock];
    for (int64_t j = 0; j < n; ++j) best[j] = first[j], indices[j] = 0;
    for (int64_t k = 1; k < length; ++k) {
      const T* row = first + k * inner;
      for (int64_t j = 0; j < n; ++j) {
        const T v = row[j], b = best[j];
        bool wins = is_max ? v > b : v < b;
        if (takes_last) wins |= v == b;
        if constexpr (std::is_floating_point_v<T>) wins |= (v != v) & ((b == b) | takes_last);
        best[j] = wins ? v : b;
        indices[j] = wins ? k : indices[j];
      }
    }
  });
}

template <bool is_max>
void run_arg(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const int axis = ctx.axis(ctx.node().get_int("axis", 0), x.rank());
  int64_t* z = ctx.output_data<int64_t>(0);
  if (ctx.output(0).count() == 0) return;
  if (x.dim(axis) == 0) ctx.fail("axis {} of shape {} has no elements to choose from", axis, to_string(x.shape()));
  const bool takes_last = ctx.node().get_int("select_last_index", 0) != 0;
  const bool known = dispatch_numbers(x.type(), [&](auto zero) {
    using T = decltype(zero);
    if (takes_last) find_extremes<T, is_max, true>(ctx, x, axis, z);
    else find_extremes<T, is_max, false>(ctx, x, axis, z);
  });
  if (!known) ctx.fail_type(0);
}

void infer_cumulative(InferContext& ctx) {
  check_element(ctx, 0, is_number, "numbers");
  infer_same(ctx);
  const std::optional<std::vector<int64_t>> axis = ctx.known_ints(1);
  if (!axis) return;
  if (axis->size() != 1) ctx.fail("the axis has to be a single number, not {}", axis->size());
  if (ctx.has_rank(0)) ctx.axis((*axis)[0], ctx.rank(0));
}

template <bool multiplies>
void run_cumulative(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const int axis = ctx.axis(to_ints(ctx.input(1)).at(0), x.rank());
  const bool is_exclusive = ctx.node().get_int("exclusive", 0) != 0, is_reverse = ctx.node().get_int("reverse", 0) != 0;
  const int64_t length = x.dim(axis), inner = x.shape().count(axis + 1, x.rank());
  if (x.count() == 0) return;
  const bool known = dispatch_numbers(x.type(), [&](auto zero) {
    using T = decltype(zero);
    using Sum = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;
    const T* from = x.data<T>();
    T* to = ctx.output(0).data<T>();
    for_lines(ctx.pool(), x.shape(), axis, [&](int64_t outer, int64_t column, int64_t n) {
      Sum sums[kBlock];
      std::fill_n(sums, n, Sum(multiplies ? 1 : 0));
      for (int64_t k = 0; k < length; ++k) {
        const int64_t at = (outer * length + (is_reverse ? length - 1 - k : k)) * inner + column;
        for (int64_t j = 0; j < n; ++j) {
          const Sum next =
              multiplies ? sums[j] * static_cast<Sum>(from[at + j]) : sums[j] + static_cast<Sum>(from[at + j]);
          to[at + j] = static_cast<T>(is_exclusive ? sums[j] : next);
          sums[j] = next;
        }
      }
    });
  });
  if (!known) ctx.fail_type(0);
}

constexpr uint8_t kVia = OpInfo::kViaFloat;
constexpr OpInfo kOps[] = {
    {"", "ArgMax", 1, 0, infer_arg, run_arg<true>, kVia},
    {"", "ArgMin", 1, 0, infer_arg, run_arg<false>, kVia},
    {"", "CumSum", 11, 0, infer_cumulative, run_cumulative<false>, kVia},
    {"", "CumProd", 26, 0, infer_cumulative, run_cumulative<true>, kVia},
};

}  // namespace

std::span<const OpInfo> scan_axis_ops() { return kOps; }

}  // namespace sluice::graph::ops
