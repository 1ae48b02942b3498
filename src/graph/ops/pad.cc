// Pad and CenterCropPad (ONNX operator specification, opsets 1 to 28; Pad also as com.microsoft has it). Negative pads
// crop, and crop first: what reflects or repeats is what is left. Each padded axis gets a list that says for every
// place of the output which place of the input it shows (or none, the constant); rows along the last padded axis are
// then a run in the middle and single copies at both ends. Reflections go back and forth as often as the pad is long,
// as NumPy has it; a dimension of one element shows that element.
#include <cstring>

#include "base/float16.h"
#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

enum class PadMode { kConstant, kReflect, kEdge, kWrap };

template <typename Context>
PadMode get_mode(const Context& context) {
  const std::string mode = context.node().get_string("mode", "constant");
  if (mode == "constant") return PadMode::kConstant;
  if (mode == "reflect") return PadMode::kReflect;
  if (mode == "edge") return PadMode::kEdge;
  if (mode == "wrap") return PadMode::kWrap;
  context.fail("mode is '{}'; constant, reflect, edge and wrap are known", mode);
}

bool has_pads_input(const Node& node) { return node.domain == kMicrosoft || node.opset >= 11; }
const char* pads_attribute(const Node& node) { return node.opset < 2 ? "paddings" : "pads"; }

// Of all axes: before and after.
struct Pads {
  std::vector<Dim> before, after;
};

std::optional<Pads> find_pads(InferContext& context, int rank) {
  std::optional<std::vector<Dim>> given;
  if (has_pads_input(context.node())) {
    given = find_shape_ints(context, 1);
  } else {
    if (!context.node().has(pads_attribute(context.node()))) {
      context.fail("attribute '{}' is missing", pads_attribute(context.node()));
    }
    const std::vector<int64_t> values = context.node().get_ints(pads_attribute(context.node()));
    given = std::vector<Dim>(values.begin(), values.end());
  }
  std::vector<int64_t> axes;
  if (has_pads_input(context.node()) && context.has_input(3)) {
    if (!find_shape_ints(context, 3)) return std::nullopt;
    const auto known = context.known_ints(3);
    if (!known) return std::nullopt;
    axes = *known;
  } else {
    for (int i = 0; i < rank; ++i) axes.push_back(i);
  }
  if (!given) return std::nullopt;
  if (given->size() != 2 * axes.size()) {
    context.fail("{} pads are given for {} axes; each takes two", given->size(), axes.size());
  }
  Pads pads{std::vector<Dim>(static_cast<size_t>(rank), 0), std::vector<Dim>(static_cast<size_t>(rank), 0)};
  std::vector<bool> seen(static_cast<size_t>(rank));
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto axis = static_cast<size_t>(context.axis(axes[i], rank));
    if (seen[axis]) context.fail("axis {} is padded twice", axis);
    seen[axis] = true;
    pads.before[axis] = (*given)[i];
    pads.after[axis] = (*given)[i + axes.size()];
  }
  return pads;
}

void infer_pad(InferContext& context) {
  get_mode(context);
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  const auto pads = find_pads(context, context.rank(0));
  if (!pads) return context.set_output(0, context.element(0), unknown_dims(context.rank(0)));
  Dims dims;
  for (size_t i = 0; i < context.dims(0).size(); ++i) {
    const Dim &before = pads->before[i], &after = pads->after[i], &dim = context.dims(0)[i];
    const Dim padded = dim + before + after;
    const bool is_too_small =
        (padded.is_known() && padded.value() < 0) ||
        (dim.is_known() && before.is_known() && (dim + before).is_known() && (dim + before).value() < 0) ||
        (dim.is_known() && after.is_known() && (dim + after).is_known() && (dim + after).value() < 0);
    if (is_too_small) {
      context.fail("dimension {} of {} cannot lose {} and {}", i, dim.to_string(), before.to_string(),
                   after.to_string());
    }
    dims.push_back(padded);
  }
  context.set_output(0, context.element(0), std::move(dims));
}

// The place of the input that place `at` shows; places before 0 and after n are padding. -1: the constant.
// REQUIRES: n > 0 unless the mode is constant.
int64_t source_of(PadMode mode, int64_t at, int64_t n) {
  if (at >= 0 && at < n) return at;
  switch (mode) {
    case PadMode::kConstant: return -1;
    case PadMode::kEdge: return at < 0 ? 0 : n - 1;
    case PadMode::kWrap: return (at % n + n) % n;
    case PadMode::kReflect: break;
  }
  if (n == 1) return 0;
  const int64_t period = 2 * (n - 1), place = (at % period + period) % period;
  return place < n ? place : period - place;
}

PlaceAxis make_axis(PadMode mode, int64_t n, int64_t before, int64_t after, int64_t step) {
  PlaceAxis axis;
  const int64_t count = n + before + after;
  const int64_t cropped = std::max<int64_t>(0, -before), left = n - cropped - std::max<int64_t>(0, -after);
  const int64_t shift = std::max<int64_t>(0, before);
  axis.run_begin = std::min(shift, count);
  axis.run_end = std::clamp<int64_t>(shift + left, axis.run_begin, count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t source = left <= 0 ? -1 : source_of(mode, i - shift, left);
    axis.source.push_back(source < 0 ? -1 : (source + cropped) * step);
  }
  return axis;
}

// The bits of the constant.
template <typename T>
T get_pad_value(RunContext& context, ElementType type) {
  if (has_pads_input(context.node())) {
    if (!context.has_input(2)) return T{};
    const Tensor& value = context.input(2);
    if (value.type() != type || value.count() != 1) {
      context.fail("the constant has to be one {}, not {}", name(type), to_string(value));
    }
    return value.data<T>()[0];
  }
  const float value = context.node().get_float("value", 0);
  T bits{};
  if constexpr (std::is_integral_v<T>) {
    auto set = [&](auto converted) {
      if constexpr (sizeof(converted) == sizeof(T)) std::memcpy(&bits, &converted, sizeof bits);
    };
    if (type == ElementType::kF32) set(value);
    else if (type == ElementType::kF64) set(static_cast<double>(value));
    else if (type == ElementType::kF16) set(float_to_f16(value));
    else if (type == ElementType::kBF16) set(float_to_bf16(value));
    else if (value != 0) context.fail("cannot pad {} with {}", name(type), value);
  }
  return bits;
}

void run_pad(RunContext& context) {
  const Tensor& input = context.input(0);
  const PadMode mode = get_mode(context);
  const int rank = input.rank();
  std::vector<int64_t> given = has_pads_input(context.node()) ? to_ints(context.input(1))
                                                              : context.node().get_ints(pads_attribute(context.node()));
  std::vector<int64_t> axes;
  if (has_pads_input(context.node()) && context.has_input(3)) axes = to_ints(context.input(3));
  else for (int i = 0; i < rank; ++i) axes.push_back(i);
  Shape before(rank, 0), after(rank, 0);
  for (size_t i = 0; i < axes.size(); ++i) {
    const int axis = context.axis(axes[i], rank);
    before[axis] = given[i];
    after[axis] = given[i + axes.size()];
  }
  const Shape strides = strides_of(input.shape());
  int num_padded = rank;  // axes after these are as they were
  while (num_padded > 0 && before[num_padded - 1] == 0 && after[num_padded - 1] == 0) --num_padded;
  if (num_padded == 0) return context.set(0, input);
  Tensor& output = make_output(context, 0);
  if (output.count() == 0) return;
  std::vector<PlaceAxis> maps;
  for (int i = 0; i < num_padded; ++i) {
    const int64_t left = input.dim(i) + std::min<int64_t>(0, before[i]) + std::min<int64_t>(0, after[i]);
    if (left <= 0 && mode != PadMode::kConstant) context.fail("dimension {} is empty and has nothing to pad with", i);
    maps.push_back(make_axis(mode, input.dim(i), before[i], after[i], strides[i]));
  }
  dispatch_width(input.type(), [&](auto zero) {
    using T = decltype(zero);
    const T value = get_pad_value<T>(context, input.type());
    move_places<T>(input, output, maps, input.shape().count(num_padded, rank), value, context.pool());
  });
}

std::vector<int> get_crop_axes(const Node& node, int rank, auto&& resolve) {
  std::vector<int> axes;
  if (!node.has("axes")) {
    for (int i = 0; i < rank; ++i) axes.push_back(i);
  }
  for (const int64_t axis : node.get_ints("axes")) axes.push_back(resolve(axis));
  return axes;
}

void infer_center_crop_pad(InferContext& context) {
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  const int rank = context.rank(0);
  const std::vector<int> axes =
      get_crop_axes(context.node(), rank, [&](int64_t axis) { return context.axis(axis, rank); });
  Dims dims = context.dims(0);
  const auto target = find_shape_ints(context, 1);
  if (target && target->size() != axes.size()) {
    context.fail("the shape has {} entries for {} axes", target->size(), axes.size());
  }
  for (size_t i = 0; i < axes.size(); ++i) {
    Dim& dim = dims[static_cast<size_t>(axes[i])];
    dim = target ? (*target)[i] : Dim::unknown();
    if (dim.is_known() && dim.value() < 0) {
      context.fail("the shape has a dimension of {}; it may be 0 or more", dim.value());
    }
  }
  context.set_output(0, context.element(0), std::move(dims));
}

void run_center_crop_pad(RunContext& context) {
  const Tensor& input = context.input(0);
  const Shape shape = get_output_shape(context, 0);
  if (shape == input.shape()) return context.set(0, input);
  Tensor& output = make_output(context, 0);
  const Shape from_steps = strides_of(input.shape()), to_steps = strides_of(shape);
  int64_t from = 0, to = 0;
  bool grows = false;
  std::vector<MoveAxis> axes;
  for (int i = 0; i < shape.rank(); ++i) {
    const int64_t is = input.dim(i), will_be = shape[i];
    if (is > will_be) from += (is - will_be) / 2 * from_steps[i];
    else to += (will_be - is) / 2 * to_steps[i];
    grows |= will_be > is;
    axes.push_back({std::min(is, will_be), from_steps[i], to_steps[i]});
  }
  if (grows) fill_with_zeros(output);
  if (output.count() == 0 || input.count() == 0) return;
  move_elements(input.type(), element_at(input, from), element_at(output, to), std::move(axes), context.pool());
}

constexpr OpInfo kOps[] = {
    {"", "Pad", 1, 0, infer_pad, run_pad, OpInfo::kMakesOutputs},
    {kMicrosoft, "Pad", 1, 0, infer_pad, run_pad, OpInfo::kMakesOutputs},
    {"", "CenterCropPad", 18, 0, infer_center_crop_pad, run_center_crop_pad, OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> pad_ops() { return kOps; }

}  // namespace sluice::graph::ops
