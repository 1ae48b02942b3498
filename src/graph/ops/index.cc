// The operators that read at places which other tensors name: Gather, GatherElements, GatherND, and OneHot and
// ReverseSequence (ONNX operator specification, opsets 1 to 28; GatherND also as com.microsoft had it first). All three
// gathers first turn their indices into offsets, where each index is checked, and then copy runs of elements; negative
// indices count from the end in every opset. A Gather of one run (one row of a table, the first token) shares memory.
#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "graph/ops/indices.h"
#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

void infer_gather(InferContext& context) {
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  const Dims& data = context.dims(0);
  const auto axis = static_cast<size_t>(context.axis(context.node().get_int("axis", 0), context.rank(0)));
  const auto ints = context.rank(0) == 1 ? find_shape_ints(context, 0) : std::nullopt;
  const auto indices = find_shape_ints(context, 1);
  if (ints && indices && are_known(*indices)) {
    std::vector<Dim> taken;
    const auto length = static_cast<int64_t>(ints->size());
    for (const Dim& index : *indices) {
      if (index.value() < -length || index.value() >= length) {
        context.fail("index {} is outside a dimension of {}", index.value(), length);
      }
      taken.push_back((*ints)[static_cast<size_t>(index.value() < 0 ? index.value() + length : index.value())]);
    }
    context.set_ints(0, std::move(taken));
  }
  if (!context.has_rank(1)) return context.set_output(0, context.element(0));
  Dims dims(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(axis));
  dims.insert(dims.end(), context.dims(1).begin(), context.dims(1).end());
  dims.insert(dims.end(), data.begin() + static_cast<std::ptrdiff_t>(axis) + 1, data.end());
  context.set_output(0, context.element(0), std::move(dims));
}

void run_gather(RunContext& context) {
  const Tensor &input = context.input(0), &indices = context.input(1);
  const int axis = context.axis(context.node().get_int("axis", 0), input.rank());
  const Shape shape = get_output_shape(context, 0);
  const int64_t outer = input.shape().count(0, axis), run = input.shape().count(axis + 1, input.rank());
  const std::vector<int64_t> offsets = read_indices(context, indices, input.dim(axis), run);
  if (outer == 1 && offsets.size() == 1) return context.set(0, input.slice(offsets[0], shape));
  copy_runs(input, make_output(context, 0), offsets, run, outer, input.dim(axis) * run, context.pool());
}

void infer_gather_elements(InferContext& context) {
  if (context.has_rank(0)) {
    const int axis = context.axis(context.node().get_int("axis", 0), context.rank(0));
    if (context.has_rank(1)) check_elements_shape(context, axis, context.dims(0), context.dims(1));
  }
  if (context.has_rank(1)) return context.set_output(0, context.element(0), context.dims(1));
  if (context.has_rank(0)) return context.set_output(0, context.element(0), unknown_dims(context.rank(0)));
  context.set_output(0, context.element(0));
}

void run_gather_elements(RunContext& context) {
  const Tensor& input = context.input(0);
  const int axis = context.axis(context.node().get_int("axis", 0), input.rank());
  Tensor& output = make_output(context, 0);
  copy_runs(input, output, element_offsets(context, input.shape(), context.input(1), axis), 1, 1, 0, context.pool());
}

int64_t get_batch_dims(const Node& node) { return node.get_int("batch_dims", 0); }

void infer_gather_nd(InferContext& context) {
  if (!context.has_rank(0) || !context.has_rank(1) || context.rank(1) == 0 || !context.dims(1).back().is_known()) {
    if (context.has_rank(1) && context.rank(1) == 0) context.fail("the indices have to have at least one dimension");
    return context.set_output(0, context.element(0));
  }
  const Dims &data = context.dims(0), &indices = context.dims(1);
  const int64_t batch = get_batch_dims(context.node()), tuple = indices.back().value();
  if (batch < 0 || batch >= std::min(context.rank(0), context.rank(1))) {
    context.fail("batch_dims is {}, with tensors of {} and {} dimensions", batch, context.rank(0), context.rank(1));
  }
  if (tuple < 0 || tuple > context.rank(0) - batch) {
    context.fail("the indices name {} dimensions, the tensor has {}", tuple, context.rank(0) - batch);
  }
  for (size_t i = 0; i < static_cast<size_t>(batch); ++i) {
    if (data[i].is_known() && indices[i].is_known() && data[i] != indices[i]) {
      context.fail("batch dimension {} is {} in the data and {} in the indices", i, data[i].value(),
                   indices[i].value());
    }
  }
  Dims dims(indices.begin(), indices.end() - 1);
  dims.insert(dims.end(), data.begin() + static_cast<std::ptrdiff_t>(batch + tuple), data.end());
  context.set_output(0, context.element(0), std::move(dims));
}

void run_gather_nd(RunContext& context) {
  const Tensor &input = context.input(0), &indices = context.input(1);
  Tensor& output = make_output(context, 0);
  const auto batch = static_cast<int>(get_batch_dims(context.node()));
  const int after = batch + static_cast<int>(indices.shape().back());
  copy_runs(input, output, tuple_offsets(context, input.shape(), indices, batch),
            input.shape().count(after, input.rank()), 1, 0, context.pool());
}

// OneHot's depth, from whatever number type it has; nullopt if it is not known.
std::optional<Dim> find_depth(InferContext& context) {
  if (const Tensor* depth = context.constant(1); depth != nullptr) {
    if (depth->count() != 1) context.fail("depth has to be one number, not {}", to_string(*depth));
    double value = 0;
    auto read = [&](auto zero) { value = static_cast<double>(depth->data<decltype(zero)>()[0]); };
    if (depth->type() == ElementType::kF16) value = f16_to_float(depth->data<uint16_t>()[0]);
    else if (depth->type() == ElementType::kBF16) value = bf16_to_float(depth->data<uint16_t>()[0]);
    else if (!dispatch<float, double>(depth->type(), read)) return Dim(to_ints(*depth).front());
    if (!(value >= 0 && value < 1e15)) context.fail("depth is {}", value);
    return Dim(static_cast<int64_t>(value));
  }
  const auto ints = find_shape_ints(context, 1);
  return ints && ints->size() == 1 ? std::optional(ints->front()) : std::nullopt;
}

void infer_one_hot(InferContext& context) {
  const Dim depth = find_depth(context).value_or(Dim::unknown());
  if (depth.is_known() && depth.value() < 1) context.fail("depth is {}; it has to be 1 or more", depth.value());
  if (context.has_rank(2) && are_known(context.dims(2)) && !(product(context.dims(2)) == Dim(2))) {
    context.fail("values has to have two elements: off and on");
  }
  if (!context.has_rank(0)) return context.set_output(0, context.element(2));
  Dims dims = context.dims(0);
  dims.insert(dims.begin() + context.axis(context.node().get_int("axis", -1), context.rank(0) + 1), depth);
  context.set_output(0, context.element(2), std::move(dims));
}

// The indices as int64; fractions are dropped, what is no number is outside.
std::vector<int64_t> read_classes(RunContext& context, const Tensor& indices) {
  if (is_integer(indices.type())) return to_ints(indices);
  std::vector<int64_t> classes(static_cast<size_t>(indices.count()));
  auto read = [&](auto zero) {
    const auto* from = indices.data<decltype(zero)>();
    for (size_t i = 0; i < classes.size(); ++i) {
      const double value = static_cast<double>(from[i]);
      classes[i] = std::abs(value) < 1e18 ? static_cast<int64_t>(value) : INT64_MAX;
    }
  };
  if (!dispatch<float, double>(indices.type(), read)) context.fail_type(0);
  return classes;
}

void run_one_hot(RunContext& context) {
  const Tensor &indices = context.input(0), &values = context.input(2);
  const int axis = context.axis(context.node().get_int("axis", -1), indices.rank() + 1);
  Tensor& output = make_output(context, 0);
  const int64_t depth = output.dim(axis);
  const std::vector<int64_t> classes = read_classes(context, indices);
  const int64_t inner = indices.shape().count(axis, indices.rank());
  fill_with(output, values, context.pool());
  dispatch_width(values.type(), [&](auto zero) {
    using T = decltype(zero);
    const T on = values.data<T>()[1];
    T* to = output.data<T>();
    for (size_t i = 0; i < classes.size(); ++i) {
      if (classes[i] < -depth || classes[i] >= depth) continue;
      const auto at = static_cast<int64_t>(i);
      const int64_t place = classes[i] < 0 ? classes[i] + depth : classes[i];
      to[(at / inner * depth + place) * inner + at % inner] = on;
    }
  });
}

void infer_reverse_sequence(InferContext& context) {
  const int64_t time = context.node().get_int("time_axis", 0), batch = context.node().get_int("batch_axis", 1);
  if (time < 0 || time > 1 || batch < 0 || batch > 1 || time == batch) {
    context.fail("time_axis is {} and batch_axis is {}; one has to be 0, the other 1", time, batch);
  }
  if (context.has_rank(0) && context.rank(0) < 2) {
    context.fail("takes a tensor of 2 or more dimensions, not of {}", context.rank(0));
  }
  const bool knows_lengths = context.has_rank(1) && are_known(context.dims(1));
  if (context.has_rank(0) && knows_lengths && context.dims(0)[static_cast<size_t>(batch)].is_known() &&
      product(context.dims(1)) != context.dims(0)[static_cast<size_t>(batch)]) {
    context.fail("there are {} lengths for a batch of {}", product(context.dims(1)).to_string(),
                 context.dims(0)[static_cast<size_t>(batch)].value());
  }
  infer_same(context);
}

void run_reverse_sequence(RunContext& context) {
  const Tensor& input = context.input(0);
  const auto time = static_cast<int>(context.node().get_int("time_axis", 0));
  const std::vector<int64_t> lengths = to_ints(context.input(1));
  const int64_t run = input.shape().count(2, input.rank()), num = input.dim(time);
  const int64_t time_step = time == 0 ? input.dim(1) * run : run, batch_step = time == 0 ? run : num * run;
  for (const int64_t length : lengths) {
    if (length < 0 || length > num) context.fail("a length of {} is outside the time dimension of {}", length, num);
  }
  Tensor& output = make_output(context, 0);
  for (size_t b = 0; b < lengths.size(); ++b) {
    const int64_t start = static_cast<int64_t>(b) * batch_step, length = lengths[b];
    if (length > 0) {
      move_elements(input.type(), element_at(input, start + (length - 1) * time_step), element_at(output, start),
                    {{length, -time_step, time_step}, {run, 1, 1}}, context.pool());
    }
    move_elements(input.type(), element_at(input, start + length * time_step),
                  element_at(output, start + length * time_step), {{num - length, time_step, time_step}, {run, 1, 1}},
                  context.pool());
  }
}

constexpr OpInfo kOps[] = {
    {"", "Gather", 1, 0, infer_gather, run_gather, OpInfo::kMakesOutputs},
    {"", "GatherElements", 11, 0, infer_gather_elements, run_gather_elements},
    {"", "GatherND", 11, 0, infer_gather_nd, run_gather_nd},
    {"", "OneHot", 9, 0, infer_one_hot, run_one_hot, OpInfo::kViaFloat},
    {"", "ReverseSequence", 10, 0, infer_reverse_sequence, run_reverse_sequence},
    {kMicrosoft, "GatherND", 1, 0, infer_gather_nd, run_gather_nd},
};

}  // namespace

std::span<const OpInfo> index_ops() { return kOps; }

}  // namespace sluice::graph::ops
