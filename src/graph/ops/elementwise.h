// Loops over tensors of one shape, or of shapes that broadcast to one, for operators that treat elements one by one.
//
// Broadcasting is worked out once a call: dimensions that every operand walks through alike are merged, so that what is
// left are rows along which each operand steps by one element or stays where it is. Rows are cut into chunks for the
// thread pool, whatever their length. The inner loops go 16 elements at a time with a constant count and no aliasing,
// which the compiler turns into vector code at -O2. Functions passed in must not throw.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "graph/op.h"

namespace sluice::graph::ops {

inline constexpr int64_t kCheapGrain = 1 << 15;   // elements of a chunk where memory is the limit
inline constexpr int64_t kCostlyGrain = 1 << 12;  // where an element takes tens of instructions or more

// z[i] = f(x[i])
template <typename T, typename R, typename F>
inline void map_row(const T* __restrict x, R* __restrict z, int64_t n, F f) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) z[i + j] = f(x[i + j]);
  }
  for (; i < n; ++i) z[i] = f(x[i]);
}

// z[i] = f(x[i], y[i])
template <typename T, typename U, typename R, typename F>
inline void map_rows(const T* __restrict x, const U* __restrict y, R* __restrict z, int64_t n, F f) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) z[i + j] = f(x[i + j], y[i + j]);
  }
  for (; i < n; ++i) z[i] = f(x[i], y[i]);
}

// z[i] = f(z[i], y[i]), y staying at its first element if y_step is 0
template <typename T, typename F>
inline void accumulate_row(T* __restrict z, const T* __restrict y, int64_t y_step, int64_t n, F f) {
  int64_t i = 0;
  if (y_step == 0) {
    const T c = y[0];
    for (; i + 16 <= n; i += 16) {
      for (int j = 0; j < 16; ++j) z[i + j] = f(z[i + j], c);
    }
    for (; i < n; ++i) z[i] = f(z[i], c);
    return;
  }
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) z[i + j] = f(z[i + j], y[i + j]);
  }
  for (; i < n; ++i) z[i] = f(z[i], y[i]);
}

// Where the elements of N operands lie for each element of a result, dimensions merged.
template <int N>
struct Broadcast {
  // REQUIRES: each shape broadcasts to `result`.
  Broadcast(const Shape& result, const std::array<const Shape*, N>& shapes) : count(result.count()) {
    Shape full[N];  // elements to step over along each dimension of the result; 0 where the operand is broadcast
    for (int k = 0; k < N; ++k) {
      full[k] = Shape(result.rank(), 0);
      int64_t step = 1;
      const int shift = result.rank() - shapes[k]->rank();
      for (int i = shapes[k]->rank() - 1; i >= 0; --i) {
        const int64_t dim = (*shapes[k])[i];
        full[k][i + shift] = dim == 1 ? 0 : step;
        step *= dim;
      }
    }
    for (int i = 0; i < result.rank(); ++i) {
      if (result[i] == 1) continue;
      bool merges = rank > 0;
      for (int k = 0; k < N && merges; ++k) merges = steps[k][rank - 1] == full[k][i] * result[i];
      if (!merges) ++rank;
      dims[rank - 1] = merges ? dims[rank - 1] * result[i] : result[i];
      for (int k = 0; k < N; ++k) steps[k][rank - 1] = full[k][i];
    }
    if (rank == 0) {
      rank = 1;
      dims[0] = 1;
      for (int k = 0; k < N; ++k) steps[k][0] = 1;
    }
  }

  int64_t step(int k) const { return steps[k][rank - 1]; }  // along a row: 0 or 1

  // Calls body(offsets, z, n) for the parts of rows that make up elements [begin, end) of the result: n elements of it
  // from z, and of operand k from offsets[k].
  template <typename Body>
  void for_rows(int64_t begin, int64_t end, Body&& body) const {
    if (begin >= end) return;
    const int last = rank - 1;
    int64_t index[kMaxRank] = {};
    std::array<int64_t, N> base{};  // of the row
    int64_t rest = begin;
    for (int i = last; i >= 0; --i) {
      index[i] = rest % dims[i];
      rest /= dims[i];
      if (i < last) {
        for (int k = 0; k < N; ++k) base[k] += index[i] * steps[k][i];
      }
    }
    int64_t column = index[last];
    for (int64_t z = begin; z < end;) {
      const int64_t n = std::min(dims[last] - column, end - z);
      std::array<int64_t, N> offsets = base;
      for (int k = 0; k < N; ++k) offsets[k] += column * steps[k][last];
      body(offsets, z, n);
      z += n;
      column = 0;
      for (int i = last - 1; i >= 0; --i) {
        for (int k = 0; k < N; ++k) base[k] += steps[k][i];
        if (++index[i] < dims[i]) break;
        for (int k = 0; k < N; ++k) base[k] -= index[i] * steps[k][i];
        index[i] = 0;
      }
    }
  }

  int64_t count;
  int rank = 0;
  int64_t dims[kMaxRank];
  int64_t steps[N][kMaxRank];
};

// output 0 = f(x), where x is as large.
template <typename T, typename R, typename F>
void map_tensor(RunContext& ctx, const T* x, R* z, int64_t count, int64_t grain, F f) {
  ctx.pool().parallel_for(count, grain,
                          [&](int64_t begin, int64_t end, int) { map_row(x + begin, z + begin, end - begin, f); });
}

// z = f(x, y), broadcast.
template <typename T, typename U, typename R, typename F>
void map_tensors(RunContext& ctx, const Broadcast<2>& plan, const T* x, const U* y, R* z, int64_t grain, F f) {
  const bool x_steps = plan.step(0) != 0, y_steps = plan.step(1) != 0;
  ctx.pool().parallel_for(plan.count, grain, [&](int64_t begin, int64_t end, int) {
    plan.for_rows(begin, end, [&](const std::array<int64_t, 2>& at, int64_t to, int64_t n) {
      const T* a = x + at[0];
      const U* b = y + at[1];
      if (x_steps && y_steps) {
        map_rows(a, b, z + to, n, f);
      } else if (x_steps) {
        map_row(a, z + to, n, [f, c = *b](T v) { return f(v, c); });
      } else if (y_steps) {
        map_row(b, z + to, n, [f, c = *a](U v) { return f(c, v); });
      } else {  // a third operand made the row
        std::fill_n(z + to, n, static_cast<R>(f(*a, *b)));
      }
    });
  });
}

// Before opset 7 a second operand could be laid along the first from dimension `axis` on (with broadcast = 1): how many
// dimensions of 1 it then has to be given at its end. 0 in every other case.
inline int num_trailing_ones(const Node& node, int rank_a, int rank_b) {
  if (node.opset >= 7 || node.domain != "" || node.get_int("broadcast", 0) == 0 || !node.has("axis")) return 0;
  int64_t axis = node.get_int("axis", 0);
  if (axis < 0) axis += rank_a;
  if (axis < 0 || axis + rank_b > rank_a) {
    fail(Code::kInvalidArgument, "{}: axis {} does not place {} dimensions in {}", node.describe(),
         node.get_int("axis", 0), rank_b, rank_a);
  }
  return static_cast<int>(rank_a - rank_b - axis);
}

// output 0 = f(input 0, input 1), broadcast. T and U are what holds the inputs' elements, R the output's.
template <typename T, typename U, typename R, typename F>
void map_inputs(RunContext& ctx, int64_t grain, F f) {
  const Tensor &x = ctx.input(0), &y = ctx.input(1);
  Tensor& z = ctx.output(0);
  Shape y_shape = y.shape();
  for (int i = num_trailing_ones(ctx.node(), x.rank(), y.rank()); i > 0; --i) y_shape.push_back(1);
  map_tensors(ctx, Broadcast<2>(z.shape(), {&x.shape(), &y_shape}), x.data<T>(), y.data<U>(), z.data<R>(), grain, f);
}

// Output 0 is of type `element` and of the shape that inputs 0 and 1 broadcast to.
void infer_pair(InferContext& ctx, ElementType element);

// What is known of the elements of an output that is f of small integer tensors, broadcast: nothing unless all are
// known or symbolic, have at most 64 elements and at most one dimension. f takes a Dim of each input and gives
// optional<Dim>; nodes with fewer than `num_needed` inputs, which run() refuses, it does not see.
inline constexpr int64_t kMaxInts = 64;
// False for large tensors, whose elements nobody should look through.
inline bool may_carry_ints(const InferContext& ctx, int i) {
  if (!ctx.has_rank(i)) return false;
  int64_t count = 1;
  for (const Dim& dim : ctx.dims(i)) {
    if (!dim.is_known() || dim.value() > kMaxInts) return false;
    count *= std::max<int64_t>(dim.value(), 0);
    if (count > kMaxInts) return false;
  }
  return true;
}
template <typename F>
void infer_ints(InferContext& ctx, F f, int num_needed) {
  if (ctx.num_inputs() < num_needed) return;  // run() refuses it
  std::vector<std::vector<Dim>> inputs;
  size_t count = 1;
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    if (!ctx.has_rank(i) || ctx.rank(i) > 1 || !may_carry_ints(ctx, i)) return;
    std::optional<std::vector<Dim>> ints = ctx.ints(i);
    if (!ints) return;
    if (ints->size() != 1) count = ints->size();
    inputs.push_back(std::move(*ints));
  }
  std::vector<Dim> results, arguments(inputs.size());
  for (size_t e = 0; e < count; ++e) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].size() != 1 && inputs[i].size() != count) return;
      arguments[i] = inputs[i][inputs[i].size() == 1 ? 0 : e];
    }
    const std::optional<Dim> result = f(arguments);
    if (!result) return;
    results.push_back(*result);
  }
  ctx.set_ints(0, std::move(results));
}

// Fails unless the inputs that are there, from `begin` on, have one element type.
inline void check_same_element(const InferContext& ctx, int begin = 0) {
  ElementType first = ElementType::kUndefined;
  for (int i = begin; i < ctx.num_inputs(); ++i) {
    if (!ctx.has_input(i) || ctx.element(i) == ElementType::kUndefined) continue;
    if (first == ElementType::kUndefined) first = ctx.element(i);
    if (ctx.element(i) != first) {
      ctx.fail("inputs of one element type are needed, input {} is {} and another is {}", i + 1, name(ctx.element(i)),
               name(first));
    }
  }
}

// Fails if input i is known not to be of a type that `allows` names.
template <typename Allows>
void check_element(const InferContext& ctx, int i, Allows allows, const char* what) {
  if (!ctx.has_input(i) || ctx.element(i) == ElementType::kUndefined || allows(ctx.element(i))) return;
  ctx.fail("input {} is {}; {} are needed", i + 1, name(ctx.element(i)), what);
}

inline bool is_wide_float(ElementType t) { return t == ElementType::kF32 || t == ElementType::kF64 || is_half(t); }
// Integers of 8 bits to 64.
inline bool is_wide_integer(ElementType t) { return is_integer(t) && get_info(t).packed_bits >= 8; }
inline bool is_number(ElementType t) { return is_wide_float(t) || is_wide_integer(t); }
inline bool is_unsigned(ElementType t) {
  return t == ElementType::kU8 || t == ElementType::kU16 || t == ElementType::kU32 || t == ElementType::kU64;
}

}  // namespace sluice::graph::ops
