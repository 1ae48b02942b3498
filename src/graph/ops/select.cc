// The operators that pick elements by their values: TopK, NonZero, Compress, Unique (ONNX operator specification,
// opsets 1 to 28; Unique also as com.microsoft has it). TopK turns values into unsigned integers of the same order and
// sorts those, with the index in the lower half where both fit into 64 bits, so that one sort serves all types; equal
// values keep the order of their indices and a NaN counts as larger than everything. Unique sorts rows, compares
// elements in order and counts all NaNs as equal.
#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <numeric>

#include "graph/ops/indices.h"
#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

void infer_top_k(InferContext& context) {
  Dim k = Dim::unknown();
  if (context.opset() < 10) {
    if (!context.node().has("k")) context.fail("attribute 'k' is missing");
    k = context.node().get_int("k", 0);
  } else if (const auto given = find_shape_ints(context, 1)) {
    if (given->size() != 1) context.fail("k has to be one number, not {}", given->size());
    k = given->front();
  }
  if (k.is_known() && k.value() < 0) context.fail("k is {}; it has to be 0 or more", k.value());
  if (!context.has_rank(0)) {
    context.set_output(0, context.element(0));
    context.set_output(1, ElementType::kI64);
    return;
  }
  Dims dims = context.dims(0);
  Dim& dim = dims[static_cast<size_t>(context.axis(context.node().get_int("axis", -1), context.rank(0)))];
  if (k.is_known() && dim.is_known() && k.value() > dim.value()) {
    context.fail("k is {}, more than the {} there are", k.value(), dim.value());
  }
  dim = k;
  context.set_output(0, context.element(0), dims);
  context.set_output(1, ElementType::kI64, std::move(dims));
}

// An unsigned integer of the same order, in the lower bits as many as T has. Larger than all: NaN.
template <typename T>
uint64_t ordered_bits(T value) {
  using U = std::make_unsigned_t<
      std::conditional_t<std::is_floating_point_v<T>, std::conditional_t<sizeof(T) == 4, int32_t, int64_t>, T>>;
  constexpr U kTop = static_cast<U>(U{1} << (8 * sizeof(T) - 1));
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(value)) return static_cast<U>(~U{0});
    if (value == 0) value = 0;  // minus zero is equal to zero
    const U bits = std::bit_cast<U>(value);
    return (bits & kTop) != 0 ? static_cast<U>(~bits) : static_cast<U>(bits | kTop);
  } else if constexpr (std::is_signed_v<T>) {
    return static_cast<U>(static_cast<U>(value) ^ kTop);
  } else {
    return value;
  }
}

// The k smallest keys to the front.
template <typename Key>
void select_smallest(std::vector<Key>& keys, int64_t k, bool is_sorted) {
  const auto middle = keys.begin() + k;
  const auto n = static_cast<int64_t>(keys.size());
  if (k < n / 32) {
    std::partial_sort(keys.begin(), middle, keys.end());
    return;
  }
  if (k < n) std::nth_element(keys.begin(), middle, keys.end());
  if (is_sorted) std::sort(keys.begin(), middle);
}

struct Lanes {
  int64_t n = 0, k = 0, inner = 0;  // elements of a lane, those to take, and the step between them
  bool is_largest = true, is_sorted = true;
};

// Indices of the top k of one lane.
template <typename T>
void find_top(const T* from, int64_t* to, const Lanes& lanes, std::vector<uint64_t>& packed,
              std::vector<std::pair<uint64_t, uint64_t>>& pairs) {
  const uint64_t flip = lanes.is_largest ? ~uint64_t{0} : 0;
  const auto n = static_cast<size_t>(lanes.n);
  if (sizeof(T) <= 4 && lanes.n <= int64_t{1} << 32) {
    packed.resize(n);
    for (size_t i = 0; i < n; ++i) {
      packed[i] = ((ordered_bits(from[static_cast<int64_t>(i) * lanes.inner]) ^ flip) << 32) | i;
    }
    select_smallest(packed, lanes.k, lanes.is_sorted);
    for (int64_t i = 0; i < lanes.k; ++i) {
      to[i * lanes.inner] = static_cast<int64_t>(packed[static_cast<size_t>(i)] & 0xffffffffu);
    }
    return;
  }
  pairs.resize(n);
  for (size_t i = 0; i < n; ++i) pairs[i] = {ordered_bits(from[static_cast<int64_t>(i) * lanes.inner]) ^ flip, i};
  select_smallest(pairs, lanes.k, lanes.is_sorted);
  for (int64_t i = 0; i < lanes.k; ++i) {
    to[i * lanes.inner] = static_cast<int64_t>(pairs[static_cast<size_t>(i)].second);
  }
}

void run_top_k(RunContext& context) {
  const Tensor& input = context.input(0);
  const int axis = context.axis(context.node().get_int("axis", -1), input.rank());
  const Shape shape = get_output_shape(context, 0);
  Tensor& values = make_output(context, 0);
  const bool has_indices = context.has_output(1);
  Tensor scratch;
  if (!has_indices) scratch = context.make(ElementType::kI64, shape);
  Tensor& indices = has_indices ? make_output(context, 1) : scratch;
  if (values.count() == 0) return;
  Lanes lanes{input.dim(axis), shape[axis], input.shape().count(axis + 1, input.rank())};
  lanes.is_largest = context.opset() < 11 || context.node().get_int("largest", 1) != 0;
  lanes.is_sorted = context.opset() < 11 || context.node().get_int("sorted", 1) != 0;
  const int64_t outer = input.shape().count(0, axis), grain = std::max<int64_t>(1, 4096 / lanes.n);
  auto find = [&](auto zero) {
    using T = decltype(zero);
    context.pool().parallel_for(outer * lanes.inner, grain, [&](int64_t begin, int64_t end, int) {
      std::vector<uint64_t> packed;
      std::vector<std::pair<uint64_t, uint64_t>> pairs;
      for (int64_t lane = begin; lane < end; ++lane) {
        const int64_t o = lane / lanes.inner, i = lane % lanes.inner;
        find_top(input.data<T>() + o * lanes.n * lanes.inner + i,
                 indices.data<int64_t>() + o * lanes.k * lanes.inner + i, lanes, packed, pairs);
      }
    });
  };
  if (!dispatch_numbers(input.type(), find)) context.fail_type(0);
  dispatch_width(input.type(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = input.data<T>();
    const int64_t* places = indices.data<int64_t>();
    T* to = values.data<T>();
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t k = 0; k < lanes.k; ++k) {
        for (int64_t i = 0; i < lanes.inner; ++i) *to++ = from[(o * lanes.n + *places++) * lanes.inner + i];
      }
    }
  });
}

void infer_non_zero(InferContext& context) {
  const Dim rank = context.has_rank(0) ? Dim(std::max(1, context.rank(0))) : Dim::unknown();
  context.set_output(0, ElementType::kI64, {rank, Dim::unknown()});
}

// Where elements are not zero, in order.
std::vector<int64_t> find_non_zeros(const Tensor& input) {
  std::vector<int64_t> places;
  auto find = [&](auto&& is_zero) {
    for (int64_t i = 0; i < input.count(); ++i) {
      if (!is_zero(i)) places.push_back(i);
    }
  };
  const ElementType type = input.type();
  dispatch_width(type, [&](auto zero) {
    using T = decltype(zero);
    const T* from = input.data<T>();
    if constexpr (std::is_same_v<T, std::string>) {
      find([&](int64_t i) { return from[i].empty(); });
    } else if constexpr (std::is_integral_v<T>) {
      // Minus zero is zero.
      const bool is_signed_float = is_float(type) && type != ElementType::kF8E8M0 && type != ElementType::kF4E2M1;
      T mask = static_cast<T>(~T{0});
      if (is_signed_float) mask = static_cast<T>(mask >> 1);
      if (type == ElementType::kC64) mask = static_cast<T>(0x7fffffff7fffffffu);
      find([&](int64_t i) { return (from[i] & mask) == 0; });
    } else {
      find([&](int64_t i) { return from[i] == T{}; });
    }
  });
  return places;
}

void run_non_zero(RunContext& context) {
  const Tensor& input = context.input(0);
  const std::vector<int64_t> places = find_non_zeros(input);
  const int rank = std::max(1, input.rank());
  const auto num = static_cast<int64_t>(places.size());
  Tensor& output = context.allocate(0, ElementType::kI64, {rank, num});
  int64_t* to = output.data<int64_t>();
  const Shape steps = strides_of(input.shape());
  for (int d = 0; d < rank; ++d, to += num) {
    if (input.rank() == 0) {
      std::fill_n(to, num, 0);
      continue;
    }
    const int64_t step = steps[d], length = input.dim(d);
    for (int64_t i = 0; i < num; ++i) to[i] = places[static_cast<size_t>(i)] / step % length;
  }
}

// The elements that a condition selects out of `length`.
std::vector<int64_t> find_selected(const Tensor& condition, int64_t length) {
  std::vector<int64_t> selected;
  for (int64_t i = 0; i < std::min(condition.count(), length); ++i) {
    if (condition.data<bool>()[i]) selected.push_back(i);
  }
  return selected;
}

void infer_compress(InferContext& context) {
  if (context.element(1) != ElementType::kBool && context.element(1) != ElementType::kUndefined) {
    context.fail("the condition has to be bool, not {}", name(context.element(1)));
  }
  if (context.has_rank(1) && context.rank(1) != 1) {
    context.fail("the condition has {} dimensions; it has to have one", context.rank(1));
  }
  const bool is_flat = !context.node().has("axis");
  if (!is_flat && !context.has_rank(0)) return context.set_output(0, context.element(0));
  Dims dims{1};
  size_t axis = 0;
  if (!is_flat) {
    dims = context.dims(0);
    axis = static_cast<size_t>(context.axis(context.node().get_int("axis", 0), context.rank(0)));
  } else {
    dims[0] = context.has_rank(0) ? product(context.dims(0)) : Dim::unknown();
  }
  const Tensor* condition = context.constant(1);
  if (condition != nullptr && dims[axis].is_known()) {
    dims[axis] = static_cast<int64_t>(find_selected(*condition, dims[axis].value()).size());
  } else {
    dims[axis] = Dim::unknown();
  }
  context.set_output(0, context.element(0), std::move(dims));
}

void run_compress(RunContext& context) {
  const Tensor& input = context.input(0);
  const bool is_flat = !context.node().has("axis");
  const int axis = is_flat ? 0 : context.axis(context.node().get_int("axis", 0), input.rank());
  const int64_t length = is_flat ? input.count() : input.dim(axis);
  const int64_t run = is_flat ? 1 : input.shape().count(axis + 1, input.rank());
  const int64_t outer = is_flat ? 1 : input.shape().count(0, axis);
  std::vector<int64_t> offsets = find_selected(context.input(1), length);
  for (int64_t& offset : offsets) offset *= run;
  copy_runs(input, make_output(context, 0), offsets, run, outer, length * run, context.pool());
}

void infer_unique(InferContext& context) {
  const bool is_microsoft = context.node().domain == kMicrosoft;
  if (is_microsoft || !context.node().has("axis")) {
    context.set_output(0, context.element(0), {Dim::unknown()});
  } else if (!context.has_rank(0)) {
    context.set_output(0, context.element(0));
  } else {
    Dims dims = context.dims(0);
    dims[static_cast<size_t>(context.axis(context.node().get_int("axis", 0), context.rank(0)))] = Dim::unknown();
    context.set_output(0, context.element(0), std::move(dims));
  }
  for (int i = 1; i < context.num_outputs(); ++i) context.set_output(i, ElementType::kI64, {Dim::unknown()});
}

// Below 0: a comes first; 0: equal.
template <typename T>
int compare(const T& a, const T& b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return static_cast<int>(std::isnan(a)) - static_cast<int>(std::isnan(b));
  }
  return a < b ? -1 : b < a ? 1 : 0;
}

struct Groups {
  std::vector<int64_t> first, inverse, counts;  // [groups], [rows], [groups]
};

// Equal rows of [num, width].
template <typename T>
Groups group_rows(const T* rows, int64_t num, int64_t width, bool is_sorted) {
  auto compare_rows = [&](int64_t a, int64_t b) {
    for (int64_t i = 0; i < width; ++i) {
      if (const int order = compare(rows[a * width + i], rows[b * width + i]); order != 0) return order;
    }
    return 0;
  };
  std::vector<int64_t> order(static_cast<size_t>(num));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return compare_rows(a, b) < 0; });
  Groups groups;
  groups.inverse.resize(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || compare_rows(order[i - 1], order[i]) != 0) {
      groups.first.push_back(order[i]);
      groups.counts.push_back(0);
    }
    ++groups.counts.back();
    groups.inverse[static_cast<size_t>(order[i])] = static_cast<int64_t>(groups.first.size()) - 1;
  }
  if (is_sorted) return groups;
  std::vector<int64_t> by_first(groups.first.size()), place(groups.first.size());
  std::iota(by_first.begin(), by_first.end(), 0);
  std::sort(by_first.begin(), by_first.end(), [&](int64_t a, int64_t b) {
    return groups.first[static_cast<size_t>(a)] < groups.first[static_cast<size_t>(b)];
  });
  Groups moved;
  for (size_t i = 0; i < by_first.size(); ++i) {
    const auto from = static_cast<size_t>(by_first[i]);
    moved.first.push_back(groups.first[from]);
    moved.counts.push_back(groups.counts[from]);
    place[from] = static_cast<int64_t>(i);
  }
  for (const int64_t group : groups.inverse) moved.inverse.push_back(place[static_cast<size_t>(group)]);
  return moved;
}

void run_unique(RunContext& context) {
  const Tensor& input = context.input(0);
  const bool is_microsoft = context.node().domain == kMicrosoft;
  const bool is_flat = is_microsoft || !context.node().has("axis");
  const bool is_sorted = !is_microsoft && context.node().get_int("sorted", 1) != 0;
  const int axis = is_flat ? 0 : context.axis(context.node().get_int("axis", 0), input.rank());
  const int64_t num = is_flat ? input.count() : input.dim(axis), width = num == 0 ? 0 : input.count() / num;
  const int64_t inner = is_flat ? 1 : input.shape().count(axis + 1, input.rank());
  Tensor rows = input;
  if (!is_flat && axis > 0) {
    rows = context.make(input.type(), {num, width});
    const int64_t outer = input.shape().count(0, axis);
    move_elements(input.type(), input.raw(), rows.raw(),
                  {{num, inner, width}, {outer, num * inner, inner}, {inner, 1, 1}}, context.pool());
  }
  Groups groups;
  auto group = [&](auto zero) { groups = group_rows(rows.data<decltype(zero)>(), num, width, is_sorted); };
  if (!dispatch_numbers(input.type(), group) && !dispatch<bool, std::string>(input.type(), group)) context.fail_type(0);

  Shape shape{static_cast<int64_t>(groups.first.size())};
  if (!is_flat) {
    shape = input.shape();
    shape[axis] = static_cast<int64_t>(groups.first.size());
  }
  std::vector<int64_t> offsets = groups.first;
  for (int64_t& offset : offsets) offset *= inner;
  Tensor& output = context.allocate(0, input.type(), shape);
  copy_runs(input, output, offsets, inner, is_flat ? 1 : input.shape().count(0, axis), num * inner, context.pool());
  const std::vector<int64_t>* lists[] = {nullptr, &groups.first, &groups.inverse, &groups.counts};
  for (int i = 1; i < context.num_outputs(); ++i) {
    if (!context.has_output(i)) continue;
    const std::vector<int64_t>& list = *lists[std::min(is_microsoft ? i + 1 : i, 3)];
    std::copy(list.begin(), list.end(),
              context.allocate(i, ElementType::kI64, {static_cast<int64_t>(list.size())}).data<int64_t>());
  }
}

constexpr OpInfo kOps[] = {
    {"", "TopK", 1, 0, infer_top_k, run_top_k, OpInfo::kViaFloat},
    {"", "NonZero", 9, 0, infer_non_zero, run_non_zero},
    {"", "Compress", 9, 0, infer_compress, run_compress},
    {"", "Unique", 11, 0, infer_unique, run_unique, OpInfo::kViaFloat},
    {kMicrosoft, "Unique", 1, 0, infer_unique, run_unique, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> select_ops() { return kOps; }

}  // namespace sluice::graph::ops
