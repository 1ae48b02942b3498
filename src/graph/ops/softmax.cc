// Softmax, LogSoftmax and Hardmax (ONNX operator specification).
//
// Since opset 13 they go along one axis; before, a tensor is flattened to two dimensions at the axis (1 unless given)
// and they go along the second. Rows of float that are contiguous use the exponentials of this machine's kernels; along
// another axis the lines are gathered into a row, computed and scattered, a block of neighbouring lines at a time so
// that memory is read in order. A row that is all -inf gives NaN, as the definition has it.
#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"
#include "graph/ops/vector_math.h"
#include "kernels/kernels.h"

namespace sluice::graph::ops {
namespace {

enum class Kind { kSoftmax, kLogSoftmax, kHardmax };

int default_axis(int opset) { return opset >= 13 ? -1 : 1; }

// A tensor as [outer, length, inner], lines along the middle.
struct Lines {
  int64_t outer, length, inner;
};

Lines lines_of(RunContext& ctx) {
  const Shape& shape = ctx.input(0).shape();
  const int64_t axis = ctx.node().get_int("axis", default_axis(ctx.opset()));
  if (ctx.opset() < 13) {
    const int at = axis == shape.rank() ? shape.rank() : ctx.axis(axis, shape.rank());
    return {shape.count(0, at), shape.count(at, shape.rank()), 1};
  }
  if (shape.rank() == 0) return {1, 1, 1};
  const int at = ctx.axis(axis, shape.rank());
  return {shape.count(0, at), shape[at], shape.count(at + 1, shape.rank())};
}

void infer_softmax(InferContext& ctx) {
  check_element(ctx, 0, is_wide_float, "floating point numbers");
  infer_same(ctx);
  if (!ctx.has_rank(0) || ctx.rank(0) == 0) return;
  const int64_t axis = ctx.node().get_int("axis", default_axis(ctx.opset()));
  if (ctx.opset() < 13 && axis == ctx.rank(0)) return;
  ctx.axis(axis, ctx.rank(0));
}

float largest(const float* x, int64_t n) {
  float lanes[16];
  std::fill_n(lanes, 16, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) lanes[j] = x[i + j] > lanes[j] || x[i + j] != x[i + j] ? x[i + j] : lanes[j];
  }
  for (; i < n; ++i) lanes[0] = x[i] > lanes[0] || x[i] != x[i] ? x[i] : lanes[0];
  float result = lanes[0];
  for (const float lane : lanes) result = lane > result || lane != lane ? lane : result;
  return result;
}

double largest(const double* x, int64_t n) {
  double result = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) result = x[i] > result || x[i] != x[i] ? x[i] : result;
  return result;
}

double exponentials(const float* x, float base, float* z, int64_t n) {
  return kernels::get_kernels().exp_weights(x, base, 1.0f, z, n);
}
double exponentials(const double* x, double base, double* z, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += z[i] = std::exp(x[i] - base);
  return sum;
}

template <typename T>
void hardmax_row(const T* x, T* z, int64_t n) {
  const int64_t best = std::max_element(x, x + n) - x;
  std::fill_n(z, n, T(0));
  z[best] = T(1);
}

// One row; none of the three overlaps another.
template <typename T>
void compute_row(Kind kind, const T* x, T* z, T* scratch, int64_t n) {
  if (kind == Kind::kHardmax) return hardmax_row(x, z, n);
  const T base = largest(x, n);
  if (!std::isfinite(base)) {  // NaN, inf - inf, or nothing but -inf
    for (int64_t i = 0; i < n; ++i) {
      const bool is_hopeless = base != base || x[i] == base;
      const T rest = kind == Kind::kSoftmax ? T(0) : -std::numeric_limits<T>::infinity();
      z[i] = is_hopeless ? std::numeric_limits<T>::quiet_NaN() : rest;
    }
    return;
  }
  if (kind == Kind::kSoftmax) {
    const T factor = static_cast<T>(1 / exponentials(x, base, z, n));
    for (int64_t i = 0; i < n; ++i) z[i] *= factor;
  } else {
    const T log_sum = static_cast<T>(std::log(exponentials(x, base, scratch, n)));
    map_row(x, z, n, [base, log_sum](T v) { return (v - base) - log_sum; });
  }
}

template <typename T>
void compute(RunContext& ctx, Kind kind, const Lines& lines, const T* x, T* z) {
  constexpr int64_t kColumns = 16;
  const int64_t blocks = (lines.inner + kColumns - 1) / kColumns;
  const int64_t num_scratch = (lines.inner == 1 ? 1 : std::min(lines.inner, kColumns) + 2) * lines.length;
  const int64_t num_units = lines.inner == 1 ? lines.outer : lines.outer * blocks;
  const int64_t grain = std::max<int64_t>(1, kCostlyGrain / (lines.length * std::min(lines.inner, kColumns)));
  Tensor scratch = ctx.make(type_of<T>(), Shape{ctx.pool().num_threads(), num_scratch});
  T* all_scratch = scratch.data<T>();
  ctx.pool().parallel_for(num_units, grain, [&](int64_t begin, int64_t end, int worker) {
    T* spare = all_scratch + worker * num_scratch;
    T* source = spare + lines.length;
    T* rows = source + lines.length;
    for (int64_t u = begin; u < end; ++u) {
      if (lines.inner == 1) {
        compute_row(kind, x + u * lines.length, z + u * lines.length, spare, lines.length);
        continue;
      }
      const int64_t column = u % blocks * kColumns, n = std::min(kColumns, lines.inner - column);
      const int64_t at = u / blocks * lines.length * lines.inner + column;
      for (int64_t k = 0; k < lines.length; ++k) {
        for (int64_t j = 0; j < n; ++j) rows[j * lines.length + k] = x[at + k * lines.inner + j];
      }
      for (int64_t j = 0; j < n; ++j) {
        T* row = rows + j * lines.length;
        std::copy_n(row, lines.length, source);
        compute_row(kind, source, row, spare, lines.length);
      }
      for (int64_t k = 0; k < lines.length; ++k) {
        for (int64_t j = 0; j < n; ++j) z[at + k * lines.inner + j] = rows[j * lines.length + k];
      }
    }
  });
}

template <Kind kind>
void run_softmax(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  if (x.count() == 0) return;
  const Lines lines = lines_of(ctx);
  const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    compute(ctx, kind, lines, x.data<T>(), ctx.output(0).data<T>());
  });
  if (!known) ctx.fail_type(0);
}

constexpr uint8_t kVia = OpInfo::kViaFloat;
constexpr OpInfo kOps[] = {
    {"", "Softmax", 1, 0, infer_softmax, run_softmax<Kind::kSoftmax>, kVia},
    {"", "LogSoftmax", 1, 0, infer_softmax, run_softmax<Kind::kLogSoftmax>, kVia},
    {"", "Hardmax", 1, 0, infer_softmax, run_softmax<Kind::kHardmax>, kVia},
};

}  // namespace

std::span<const OpInfo> softmax_ops() { return kOps; }

}  // namespace sluice::graph::ops
