// Concat and Split (ONNX operator specification, opsets 1 to 28). Both are copies of runs: an output row of a Concat is
// the rows of its inputs one after the other, where a row is everything from the axis on. An input that holds all the
// elements of a Concat is passed on as it is.
#include <cstring>
#include <numeric>

#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

// Opsets before 4 have a default.
int64_t get_concat_axis(const Node& node) { return node.get_int("axis", node.opset < 4 ? 1 : 0); }

void infer_concat(InferContext& context) {
  if (context.num_inputs() == 0) context.fail("has nothing to concatenate");
  if (context.opset() >= 4 && !context.node().has("axis")) context.fail("attribute 'axis' is missing");
  const ElementType element = context.element(0);
  int ranked = -1;
  for (int i = 0; i < context.num_inputs(); ++i) {
    if (context.element(i) != element && context.element(i) != ElementType::kUndefined &&
        element != ElementType::kUndefined) {
      context.fail("input {} is of {}, input 1 of {}", i + 1, name(context.element(i)), name(element));
    }
    if (!context.has_rank(i)) continue;
    if (ranked >= 0 && context.rank(i) != context.rank(ranked)) {
      context.fail("input {} has {} dimensions, input {} has {}", i + 1, context.rank(i), ranked + 1,
                   context.rank(ranked));
    }
    ranked = i;
  }
  if (ranked < 0) return context.set_output(0, element);
  const int rank = context.rank(ranked);
  const auto axis = static_cast<size_t>(context.axis(get_concat_axis(context.node()), rank));
  Dims dims = unknown_dims(rank);
  std::vector<bool> is_told(dims.size());
  Dim length = 0;
  std::vector<Dim> ints;
  bool has_ints = rank == 1;
  for (int i = 0; i < context.num_inputs(); ++i) {
    length += context.has_rank(i) ? context.dims(i)[axis] : Dim::unknown();
    if (has_ints) {
      const auto more = find_shape_ints(context, i);
      if (more) {
        ints.insert(ints.end(), more->begin(), more->end());
      } else if (context.has_rank(i) && context.dims(i)[0].is_known() && is_integer(element) &&
                 context.dims(i)[0].value() >= 0 && context.dims(i)[0].value() <= kMaxShapeInts) {
        for (int64_t k = 0; k < context.dims(i)[0].value(); ++k) ints.push_back(Dim::unknown());
      } else {
        has_ints = false;
      }
    }
    if (!context.has_rank(i)) continue;
    for (size_t d = 0; d < dims.size(); ++d) {
      const Dim& dim = context.dims(i)[d];
      if (d == axis) continue;
      if (is_told[d] && dims[d].is_known() && dim.is_known() && dims[d] != dim) {
        context.fail("dimension {} of input {} is {}, others have {}", d, i + 1, dim.value(), dims[d].value());
      }
      if (!is_told[d] || dim.is_known()) dims[d] = dim;
      is_told[d] = true;
    }
  }
  dims[axis] = length;
  context.set_output(0, element, std::move(dims));
  if (has_ints && ints.size() <= static_cast<size_t>(kMaxShapeInts)) context.set_ints(0, std::move(ints));
}

void run_concat(RunContext& context) {
  const Shape shape = get_output_shape(context, 0);
  const int axis = context.axis(get_concat_axis(context.node()), shape.rank());
  for (int i = 0; i < context.num_inputs(); ++i) {
    if (context.input(i).shape() == shape) return context.set(0, context.input(i));
  }
  Tensor& output = make_output(context, 0);
  if (output.count() == 0) return;
  const int64_t outer = output.shape().count(0, axis), row = output.count() / outer;
  int64_t at = 0;
  for (int i = 0; i < context.num_inputs(); ++i) {
    const Tensor& input = context.input(i);
    const int64_t width = input.count() / outer;
    move_elements(input.type(), input.raw(), element_at(output, at), {{outer, width, row}, {width, 1, 1}},
                  context.pool());
    at += width;
  }
}

// The lengths of the parts, as far as they are known: given, or equal ones of which the last may be shorter.
std::vector<Dim> split_lengths(InferContext& context, const Dim& length) {
  const auto num = static_cast<size_t>(context.num_outputs());
  std::optional<std::vector<Dim>> given;
  const bool has_input = (context.opset() >= 13 || context.opset() == 1) && context.has_input(1);
  if (has_input) {
    given = find_shape_ints(context, 1);
    if (!given) {
      if (const Tensor* split = context.constant(1); split != nullptr) {
        const std::vector<int64_t> values = to_ints(*split);
        given = std::vector<Dim>(values.begin(), values.end());
      }
    }
    if (!given) return unknown_dims(static_cast<int>(num));
  } else if (context.opset() < 13 && context.node().has("split")) {
    const std::vector<int64_t> values = context.node().get_ints("split");
    given = std::vector<Dim>(values.begin(), values.end());
  }
  if (given) {
    if (given->size() != num) context.fail("split has {} entries for {} outputs", given->size(), num);
    Dim sum = 0;
    for (const Dim& part : *given) {
      if (part.is_known() && part.value() < 0) {
        context.fail("split has an entry of {}; it may be 0 or more", part.value());
      }
      if (part.is_known() && length.is_known() && part.value() > length.value()) {
        context.fail("a part of {} is longer than the dimension of {}", part.value(), length.value());
      }
      sum += part;
    }
    if (sum.is_known() && length.is_known() && sum != length) {
      context.fail("the parts add up to {}, the dimension is {}", sum.value(), length.value());
    }
    return *given;
  }
  if (num == 0) return {};
  const auto parts = static_cast<int64_t>(num);
  if (context.opset() >= 18 && context.node().has("num_outputs") && context.node().get_int("num_outputs", 0) != parts) {
    context.fail("num_outputs is {}, but the node has {} outputs", context.node().get_int("num_outputs", 0), num);
  }
  if (context.opset() < 18 && length.is_known() && length.value() % parts != 0) {
    context.fail("a dimension of {} cannot be split into {} equal parts", length.value(), num);
  }
  const Dim part = ceil_divide(length, parts);
  std::vector<Dim> lengths(num, part);
  lengths.back() = length - part * Dim(parts - 1);
  if (lengths.back().is_known() && lengths.back().value() < 0) {
    context.fail("a dimension of {} cannot be split into {} parts of {}", length.value(), num, part.value());
  }
  return lengths;
}

void infer_split(InferContext& context) {
  const int num = context.num_outputs();
  if (!context.has_rank(0)) {
    for (int i = 0; i < num; ++i) context.set_output(i, context.element(0));
    return;
  }
  const auto axis = static_cast<size_t>(context.axis(context.node().get_int("axis", 0), context.rank(0)));
  const std::vector<Dim> lengths = split_lengths(context, context.dims(0)[axis]);
  const auto ints = context.rank(0) == 1 ? find_shape_ints(context, 0) : std::nullopt;
  int64_t at = 0;
  for (int i = 0; i < num; ++i) {
    const Dim& length = lengths[static_cast<size_t>(i)];
    Dims dims = context.dims(0);
    dims[axis] = length;
    context.set_output(i, context.element(0), std::move(dims));
    if (!ints || at < 0 || !length.is_known() || length.value() > static_cast<int64_t>(ints->size()) - at) {
      at = -1;  // from here on nobody knows where the parts begin
      continue;
    }
    context.set_ints(i, std::vector<Dim>(ints->begin() + at, ints->begin() + at + length.value()));
    at += length.value();
  }
}

void run_split(RunContext& context) {
  const Tensor& input = context.input(0);
  const int axis = context.axis(context.node().get_int("axis", 0), input.rank());
  const int64_t outer = input.shape().count(0, axis), inner = input.shape().count(axis + 1, input.rank());
  const int64_t row = input.dim(axis) * inner;
  int64_t at = 0;
  for (int i = 0; i < context.num_outputs(); ++i) {
    const Shape shape = get_output_shape(context, i);
    const int64_t width = shape[axis] * inner;
    if (context.has_output(i)) {
      if (outer == 1) {
        context.set(i, input.slice(at, shape));
      } else {
        move_elements(input.type(), element_at(input, at), make_output(context, i).raw(),
                      {{outer, row, width}, {width, 1, 1}}, context.pool());
      }
    }
    at += width;
  }
}

constexpr OpInfo kOps[] = {
    {"", "Concat", 1, 0, infer_concat, run_concat, OpInfo::kMakesOutputs},
    {"", "Split", 1, 0, infer_split, run_split, OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> join_ops() { return kOps; }

}  // namespace sluice::graph::ops
