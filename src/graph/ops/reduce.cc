// Reductions over axes: ReduceSum, Mean, Prod, Max, Min, L1, L2, SumSquare, LogSum, LogSumExp (ONNX operator
// specification; axes are an attribute before opset 18, of ReduceSum before 13, and an input since).
//
// Dimensions are merged into runs that are kept or reduced as a whole. If the innermost run is reduced, each result
// sums rows, in 16 lanes; if it is kept, blocks of neighbouring results take in row after row. Both are vector code.
// Sums of float are carried in double between stretches of 1024 elements, integers wrap around, Max and Min hand NaNs
// on, and reducing nothing gives the neutral element. With noop_with_empty_axes and no axes each element is a result of
// its own, so that ReduceSumSquare still squares. LogSumExp takes the maximum out first.
#include <cmath>
#include <limits>
#include <type_traits>

#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

constexpr int64_t kLanes = 16, kStretch = 1024, kBlock = 256;

// Which dimensions of an input are reduced, by bit.
uint32_t axes_mask(const Node& node, const std::vector<int64_t>& axes, int rank, bool is_noop) {
  uint32_t mask = 0;
  for (const int64_t axis : axes) {
    if (axis < -rank || axis >= rank) {
      fail(Code::kInvalidArgument, "{}: axis {} is outside a tensor of {} dimensions", node.describe(), axis, rank);
    }
    mask |= 1u << (axis < 0 ? axis + rank : axis);
  }
  return axes.empty() && !is_noop ? (1u << rank) - 1 : mask;
}

bool has_axes_input(const Node& node) { return node.opset >= (node.op_type == "ReduceSum" ? 13 : 18); }
bool is_noop(const Node& node) { return has_axes_input(node) && node.get_int("noop_with_empty_axes", 0) != 0; }

void infer_reduce(InferContext& ctx) {
  check_element(ctx, 0, [](ElementType t) { return is_number(t) || t == ElementType::kBool; }, "numbers");
  const ElementType element = ctx.element(0);
  const bool keeps = ctx.node().get_int("keepdims", 1) != 0;
  std::optional<std::vector<int64_t>> axes;
  if (!has_axes_input(ctx.node())) axes = ctx.node().get_ints("axes");
  else if (!ctx.has_input(1)) axes.emplace();
  else axes = ctx.known_ints(1);
  if (!ctx.has_rank(0)) return ctx.set_output(0, element);
  if (!axes) {
    if (!keeps) return ctx.set_output(0, element);
    Dims dims;
    for (int i = 0; i < ctx.rank(0); ++i)
      dims.push_back(ctx.dims(0)[static_cast<size_t>(i)] == Dim(1) ? Dim(1) : Dim::unknown());
    return ctx.set_output(0, element, std::move(dims));
  }
  const uint32_t mask = axes_mask(ctx.node(), *axes, ctx.rank(0), is_noop(ctx.node()));
  Dims dims;
  for (int i = 0; i < ctx.rank(0); ++i) {
    if ((mask >> i & 1) == 0) dims.push_back(ctx.dims(0)[static_cast<size_t>(i)]);
    else if (keeps) dims.emplace_back(1);
  }
  ctx.set_output(0, element, std::move(dims));
  // Of a shape that travels as integers: its product, sum, largest or smallest.
  if (!is_wide_integer(element) || ctx.rank(0) != 1 || mask != 1 || !may_carry_ints(ctx, 0)) return;
  const std::optional<std::vector<Dim>> ints = ctx.ints(0);
  if (!ints || ints->empty()) return;
  Dim result = (*ints)[0];
  for (size_t i = 1; i < ints->size(); ++i) {
    const Dim& next = (*ints)[i];
    int64_t known = 0;
    const bool both = result.is_known() && next.is_known();
    if (ctx.node().op_type == "ReduceProd") {
      if (both && __builtin_mul_overflow(result.value(), next.value(), &known)) return;
      result = both ? Dim(known) : result * next;
    } else if (ctx.node().op_type == "ReduceSum") {
      if (both && __builtin_add_overflow(result.value(), next.value(), &known)) return;
      result = both ? Dim(known) : result + next;
    } else if (ctx.node().op_type == "ReduceMax") {
      result = max_of(result, next);
    } else if (ctx.node().op_type == "ReduceMin") {
      result = min_of(result, next);
    } else {
      return;
    }
  }
  ctx.set_ints(0, {result});
}

// Runs of dimensions, outermost first, and where their elements lie.
struct Runs {
  int64_t offset_of(int64_t index) const {
    int64_t offset = 0;
    for (int i = rank - 1; i >= 0; --i) {
      offset += index % dims[i] * steps[i];
      index /= dims[i];
    }
    return offset;
  }
  void push(int64_t dim, int64_t step) {
    dims[rank] = dim;
    steps[rank++] = step;
    count *= dim;
  }
  int rank = 0;
  int64_t count = 1;
  int64_t dims[kMaxRank], steps[kMaxRank];
};

struct ReducePlan {
  ReducePlan(const Shape& shape, uint32_t mask) {
    struct Run { int64_t dim, step; bool is_reduced; };
    Run runs[kMaxRank];
    int num_runs = 0;
    const Shape strides = strides_of(shape);
    for (int i = 0; i < shape.rank(); ++i) {
      const bool is_reduced = (mask >> i & 1) != 0;
      if (is_reduced) num_reduced *= shape[i];
      else num_kept *= shape[i];
      if (shape[i] == 1) continue;
      if (num_runs > 0 && runs[num_runs - 1].is_reduced == is_reduced) {
        runs[num_runs - 1].dim *= shape[i];
        runs[num_runs - 1].step = strides[i];
      } else {
        runs[num_runs++] = {shape[i], strides[i], is_reduced};
      }
    }
    if (num_runs > 0) {
      inner = runs[num_runs - 1].dim;
      is_inner_reduced = runs[num_runs - 1].is_reduced;
    }
    for (int i = 0; i + 1 < num_runs; ++i) (runs[i].is_reduced ? reduced : kept).push(runs[i].dim, runs[i].step);
  }

  int64_t num_kept = 1, num_reduced = 1;  // elements in all
  Runs kept, reduced;                     // without the innermost run
  int64_t inner = 1;                      // the innermost run
  bool is_inner_reduced = true;
};

// An operation: Lane is what a stretch of a row is summed in, Sum what stretches are summed in.
template <typename T>
using SumOf = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;
template <typename T>
using LaneOf = std::conditional_t<std::is_floating_point_v<T>, T, uint64_t>;

template <typename T>
struct Adding {
  using Lane = LaneOf<T>;
  using Sum = SumOf<T>;
  static constexpr Lane kNeutral = 0;
  static Lane prepare(T x, T) { return static_cast<Lane>(x); }
  template <typename A>
  static A join(A a, A b) { return a + b; }
};
template <typename T>
struct AddingMagnitudes : Adding<T> {
  using Lane = LaneOf<T>;
  static Lane prepare(T x, T) {
    if constexpr (std::is_same_v<T, float>) return magnitude(x);
    else if constexpr (std::is_same_v<T, double>) return std::fabs(x);
    else return x < 0 ? Lane(0) - static_cast<Lane>(x) : static_cast<Lane>(x);
  }
};
template <typename T>
struct AddingSquares : Adding<T> {
  using Lane = LaneOf<T>;
  static Lane prepare(T x, T) { return static_cast<Lane>(x) * static_cast<Lane>(x); }
};
template <typename T>
struct AddingExponentials : Adding<T> {
  using Lane = LaneOf<T>;
  static Lane prepare(T x, T shift) {
    if constexpr (std::is_same_v<T, float>) return fast_exp(x - shift);
    else return std::exp(x - shift);
  }
};
template <typename T>
struct Multiplying {
  using Lane = SumOf<T>;
  using Sum = SumOf<T>;
  static constexpr Lane kNeutral = 1;
  static Lane prepare(T x, T) { return static_cast<Lane>(x); }
  template <typename A>
  static A join(A a, A b) { return a * b; }
};
template <typename T, bool is_max>
struct Choosing {
  using Lane = T;
  using Sum = T;
  static constexpr T lowest() {
    if constexpr (std::is_floating_point_v<T>) return -std::numeric_limits<T>::infinity();
    else return std::numeric_limits<T>::lowest();
  }
  static constexpr T highest() {
    if constexpr (std::is_floating_point_v<T>) return std::numeric_limits<T>::infinity();
    else return std::numeric_limits<T>::max();
  }
  static constexpr T kNeutral = is_max ? lowest() : highest();
  static T prepare(T x, T) { return x; }
  template <typename A>
  static A join(A a, A b) {
    if constexpr (std::is_floating_point_v<T>) return (is_max ? b > a : b < a) || b != b ? b : a;
    else return (is_max ? b > a : b < a) ? b : a;
  }
};

template <typename Op, typename T>
typename Op::Sum reduce_row(const T* x, int64_t n, T shift) {
  using Lane = typename Op::Lane;
  using Sum = typename Op::Sum;
  Sum sum = Op::kNeutral;
  for (int64_t begin = 0; begin < n; begin += kStretch) {
    const int64_t end = std::min(n, begin + kStretch);
    int64_t i = begin;
    if (end - begin >= kLanes) {
      Lane lanes[kLanes];
      std::fill_n(lanes, kLanes, Op::kNeutral);
      for (; i + kLanes <= end; i += kLanes) {
        for (int j = 0; j < kLanes; ++j) lanes[j] = Op::join(lanes[j], Op::prepare(x[i + j], shift));
      }
      for (const Lane lane : lanes) sum = Op::join(sum, static_cast<Sum>(lane));
    }
    for (; i < end; ++i) sum = Op::join(sum, static_cast<Sum>(Op::prepare(x[i], shift)));
  }
  return sum;
}

// z[i] = finish(all of Op over what belongs to result i). `shifts` gives a number for each result, or is null.
template <typename Op, typename T, typename Finish>
void reduce(ThreadPool& pool, const ReducePlan& plan, const T* x, T* z, const T* shifts, Finish finish) {
  using Sum = typename Op::Sum;
  if (plan.num_reduced == 0) {
    std::fill_n(z, plan.num_kept, finish(Sum(Op::kNeutral), int64_t{0}));
    return;
  }
  if (plan.num_kept == 0) return;
  auto shift_of = [shifts](int64_t i) { return shifts == nullptr ? T(0) : shifts[i]; };
  if (plan.is_inner_reduced) {
    const int64_t grain = std::max<int64_t>(1, kCheapGrain / plan.num_reduced);
    pool.parallel_for(plan.num_kept, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const T* from = x + plan.kept.offset_of(i);
        const T shift = shift_of(i);
        Sum sum = Op::kNeutral;
        for (int64_t r = 0; r < plan.reduced.count; ++r) {
          sum = Op::join(sum, reduce_row<Op>(from + plan.reduced.offset_of(r), plan.inner, shift));
        }
        z[i] = finish(sum, plan.num_reduced);
      }
    });
    return;
  }
  const int64_t blocks = (plan.inner + kBlock - 1) / kBlock;
  const int64_t grain = std::max<int64_t>(1, kCheapGrain / (plan.num_reduced * std::min(plan.inner, kBlock)));
  pool.parallel_for(plan.kept.count * blocks, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t outer = b / blocks, column = b % blocks * kBlock;
      const int64_t n = std::min(kBlock, plan.inner - column), first = outer * plan.inner + column;
      const T* from = x + plan.kept.offset_of(outer) + column;
      Sum sums[kBlock];
      std::fill_n(sums, n, Sum(Op::kNeutral));
      for (int64_t r = 0; r < plan.reduced.count; ++r) {
        const T* row = from + plan.reduced.offset_of(r);
        if (shifts == nullptr) {
          for (int64_t j = 0; j < n; ++j) sums[j] = Op::join(sums[j], static_cast<Sum>(Op::prepare(row[j], T(0))));
        } else {
          for (int64_t j = 0; j < n; ++j)
            sums[j] = Op::join(sums[j], static_cast<Sum>(Op::prepare(row[j], shifts[first + j])));
        }
      }
      for (int64_t j = 0; j < n; ++j) z[first + j] = finish(sums[j], plan.num_reduced);
    }
  });
}

ReducePlan make_plan(RunContext& ctx) {
  const Node& node = ctx.node();
  std::vector<int64_t> axes;
  if (!has_axes_input(node)) axes = node.get_ints("axes");
  else if (ctx.has_input(1)) axes = to_ints(ctx.input(1));
  return ReducePlan(ctx.input(0).shape(), axes_mask(node, axes, ctx.input(0).rank(), is_noop(node)));
}

template <template <typename> typename Op, typename Finish>
void run_reduce(RunContext& ctx, Finish finish) {
  const ReducePlan plan = make_plan(ctx);
  const Tensor& x = ctx.input(0);
  const bool known = dispatch<float, double, int32_t, int64_t, uint32_t, uint64_t>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    reduce<Op<T>>(ctx.pool(), plan, x.data<T>(), ctx.output(0).data<T>(), static_cast<const T*>(nullptr),
                  [finish](auto sum, int64_t n) { return finish(T{}, sum, n); });
  });
  if (!known) ctx.fail_type(0);
}

// A sum, which is unsigned for integers, as a double.
template <typename T, typename Sum>
double as_double(Sum sum) {
  if constexpr (std::is_signed_v<T> && std::is_integral_v<Sum>) return static_cast<double>(static_cast<int64_t>(sum));
  else return static_cast<double>(sum);
}

constexpr auto kAsIs = [](auto zero, auto sum, int64_t) { return static_cast<decltype(zero)>(sum); };

void run_sum(RunContext& ctx) { run_reduce<Adding>(ctx, kAsIs); }
void run_prod(RunContext& ctx) { run_reduce<Multiplying>(ctx, kAsIs); }
void run_l1(RunContext& ctx) { run_reduce<AddingMagnitudes>(ctx, kAsIs); }
void run_sum_square(RunContext& ctx) { run_reduce<AddingSquares>(ctx, kAsIs); }
void run_mean(RunContext& ctx) {
  run_reduce<Adding>(ctx, [](auto zero, auto sum, int64_t n) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<T>) return static_cast<T>(sum / static_cast<double>(n));
    else if (n == 0) return T(0);
    else if constexpr (std::is_signed_v<T>) return static_cast<T>(static_cast<int64_t>(sum) / n);
    else return static_cast<T>(sum / static_cast<uint64_t>(n));
  });
}
void run_l2(RunContext& ctx) {
  run_reduce<AddingSquares>(ctx, [](auto zero, auto sum, int64_t) {
    return static_cast<decltype(zero)>(std::sqrt(static_cast<double>(sum)));
  });
}
// The logarithm of a whole number as a whole number; 0 where there is none.
template <typename T>
T whole_log(double sum) { return sum >= 1 ? static_cast<T>(std::log(sum)) : T(0); }

void run_log_sum(RunContext& ctx) {
  run_reduce<Adding>(ctx, [](auto zero, auto sum, int64_t) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<T>) return static_cast<T>(std::log(sum));
    else return whole_log<T>(as_double<T>(sum));
  });
}

template <typename T>
using Maximum = Choosing<T, true>;
template <typename T>
using Minimum = Choosing<T, false>;

template <template <typename> typename Op>
void run_choosing(RunContext& ctx) {
  const ReducePlan plan = make_plan(ctx);
  const Tensor& x = ctx.input(0);
  // A bool is a byte of 0 or 1; nothing chosen from is the end of its own range.
  if (x.type() == ElementType::kBool) {
    return reduce<Op<uint8_t>>(ctx.pool(), plan, x.data<uint8_t>(), ctx.output(0).data<uint8_t>(),
                               static_cast<const uint8_t*>(nullptr),
                               [](uint8_t v, int64_t) { return static_cast<uint8_t>(v != 0); });
  }
  const bool known = dispatch_numbers(x.type(), [&](auto zero) {
    using T = decltype(zero);
    reduce<Op<T>>(ctx.pool(), plan, x.data<T>(), ctx.output(0).data<T>(), static_cast<const T*>(nullptr),
                  [](T v, int64_t) { return v; });
  });
  if (!known) ctx.fail_type(0);
}

void run_log_sum_exp(RunContext& ctx) {
  const ReducePlan plan = make_plan(ctx);
  const Tensor& x = ctx.input(0);
  auto run = [&](auto zero, const Tensor& from, Tensor& to) {
    using T = decltype(zero);
    const T* data = from.data<T>();
    T* z = to.data<T>();
    Tensor maxima = ctx.make(to.type(), to.shape());
    T* shifts = maxima.data<T>();
    reduce<Maximum<T>>(ctx.pool(), plan, data, shifts, static_cast<const T*>(nullptr), [](T v, int64_t) {
      return std::isinf(v) ? T(0) : v;  // exp(inf - inf) would be NaN
    });
    reduce<AddingExponentials<T>>(ctx.pool(), plan, data, z, shifts,
                                  [](double sum, int64_t) { return static_cast<T>(std::log(sum)); });
    if (plan.num_reduced == 0) return;
    for (int64_t i = 0; i < to.count(); ++i) z[i] += shifts[i];
  };
  Tensor& z = ctx.output(0);
  if (x.type() == ElementType::kF32) return run(float{}, x, z);
  if (x.type() == ElementType::kF64) return run(double{}, x, z);
  // Whole numbers, in double.
  Tensor wide = ctx.make(ElementType::kF64, x.shape()), result = ctx.make(ElementType::kF64, z.shape());
  const bool known = dispatch<int32_t, int64_t, uint32_t, uint64_t>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    map_tensor(ctx, x.data<T>(), wide.data<double>(), x.count(), kCheapGrain,
               [](T v) { return static_cast<double>(v); });
    run(double{}, wide, result);
    map_tensor(ctx, result.data<double>(), z.data<T>(), z.count(), kCheapGrain, [](double v) {
      if (!(v > static_cast<double>(std::numeric_limits<T>::min()))) return std::numeric_limits<T>::min();
      return v < static_cast<double>(std::numeric_limits<T>::max()) ? static_cast<T>(v) : std::numeric_limits<T>::max();
    });
  });
  if (!known) ctx.fail_type(0);
}

constexpr uint8_t kVia = OpInfo::kViaFloat;
constexpr OpInfo kOps[] = {
    {"", "ReduceSum", 1, 0, infer_reduce, run_sum, kVia},
    {"", "ReduceMean", 1, 0, infer_reduce, run_mean, kVia},
    {"", "ReduceProd", 1, 0, infer_reduce, run_prod, kVia},
    {"", "ReduceMax", 1, 0, infer_reduce, run_choosing<Maximum>, kVia},
    {"", "ReduceMin", 1, 0, infer_reduce, run_choosing<Minimum>, kVia},
    {"", "ReduceL1", 1, 0, infer_reduce, run_l1, kVia},
    {"", "ReduceL2", 1, 0, infer_reduce, run_l2, kVia},
    {"", "ReduceSumSquare", 1, 0, infer_reduce, run_sum_square, kVia},
    {"", "ReduceLogSum", 1, 0, infer_reduce, run_log_sum, kVia},
    {"", "ReduceLogSumExp", 1, 0, infer_reduce, run_log_sum_exp, kVia},
};

}  // namespace

std::span<const OpInfo> reduce_ops() { return kOps; }

}  // namespace sluice::graph::ops
