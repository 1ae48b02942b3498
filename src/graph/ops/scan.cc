// Scan (ONNX operator specification, opsets 8 and 9 to 25): a body goes along an axis of its scan inputs, carrying
// states. Pieces along the outermost axis share the memory of the whole; others are copied. How often the body runs is
// known before, so outputs are allocated once, when the first piece says how large one is. The version of opset 8 has a
// batch as first dimension of everything and runs each example by itself; what lies beyond its sequence's length is 0.
#include "graph/ops/bodies.h"
#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/pieces.h"

namespace sluice::graph::ops {
namespace {

// What the attributes say, checked.
struct Layout {
  const Graph* body;
  int first = 0;                        // input of the node that is the body's first
  int num_states = 0, num_inputs = 0, num_outputs = 0;  // that are scanned
  std::vector<int64_t> axes, output_axes;
  std::vector<int64_t> directions, output_directions;
};

void fill_list(const Node& node, const char* name, std::vector<int64_t>& list, int count) {
  if (list.empty()) list.assign(static_cast<size_t>(count), 0);
  if (list.size() != static_cast<size_t>(count)) {
    fail(Code::kInvalidArgument, "{}: {} has {} elements and has to have {}", node.describe(), name, list.size(),
         count);
  }
}

Layout read_layout(const Node& node, int num_node_inputs, int num_node_outputs) {
  Layout layout{.body = &node.get_graph("body")};
  layout.first = node.opset < 9 ? 1 : 0;
  const int64_t num_inputs = node.get_int("num_scan_inputs", 0), num_values = num_node_inputs - layout.first;
  if (num_inputs < 1 || num_inputs > num_values) {
    fail(Code::kInvalidArgument, "{}: num_scan_inputs is {}; it has to be between 1 and the {} inputs", node.describe(),
         num_inputs, num_values);
  }
  layout.num_inputs = static_cast<int>(num_inputs);
  layout.num_states = static_cast<int>(num_values - num_inputs);
  layout.num_outputs = static_cast<int>(layout.body->outputs.size()) - layout.num_states;
  check_body(node, *layout.body, num_values, layout.num_states + std::max(layout.num_outputs, 0));
  if (num_node_outputs > layout.num_states + layout.num_outputs) {
    fail(Code::kInvalidArgument, "{}: has {} outputs, but its body gives {} values", node.describe(), num_node_outputs,
         layout.num_states + layout.num_outputs);
  }
  layout.directions = node.get_ints(node.opset < 9 ? "directions" : "scan_input_directions");
  if (node.opset >= 9) layout.output_directions = node.get_ints("scan_output_directions");
  if (node.opset >= 9) {
    layout.axes = node.get_ints("scan_input_axes");
    layout.output_axes = node.get_ints("scan_output_axes");
  }
  fill_list(node, "scan_input_directions", layout.directions, layout.num_inputs);
  fill_list(node, "scan_output_directions", layout.output_directions, layout.num_outputs);
  fill_list(node, "scan_input_axes", layout.axes, layout.num_inputs);
  fill_list(node, "scan_output_axes", layout.output_axes, layout.num_outputs);
  return layout;
}

// Both versions; `num_batch_axes` leading dimensions are no business of the body.
void infer_scan(InferContext& context, int num_batch_axes) {
  const Layout layout = read_layout(context.node(), context.num_inputs(), context.num_outputs());
  std::optional<Dim> length, batch;
  auto meet = [&](std::optional<Dim>& common, const Dim& dim, const char* what) {
    if (common && common->is_known() && dim.is_known() && !(*common == dim)) {
      context.fail("its inputs differ in {}: {} and {}", what, common->to_string(), dim.to_string());
    }
    if (!common || dim.is_known()) common = dim;
  };
  std::vector<ValueType> given;
  for (int i = 0; i < layout.num_states + layout.num_inputs; ++i) {
    ValueType type = context.type(layout.first + i);
    if (type.has_rank()) {
      if (num_batch_axes == 1) {
        if (type.dims->empty()) {
          context.fail("input {} is a scalar and has to have a batch dimension", layout.first + i + 1);
        }
        meet(batch, type.dims->front(), "the number of batches");
        type.dims->erase(type.dims->begin());
      }
      if (i >= layout.num_states) {
        const int axis = context.axis(layout.axes[static_cast<size_t>(i - layout.num_states)], type.rank());
        meet(length, (*type.dims)[static_cast<size_t>(axis)], "the dimension that is scanned");
        type.dims->erase(type.dims->begin() + axis);
      }
    }
    given.push_back(std::move(type));
  }
  const std::vector<ValueType> results = context.infer_graph(*layout.body, given);
  for (int i = 0; i < context.num_outputs(); ++i) {
    ValueType type = results[static_cast<size_t>(i)];
    if (type.kind == ValueType::Kind::kUnknown) continue;
    if (i < layout.num_states) {
      if (given[static_cast<size_t>(i)].is_tensor()) type = join_types(context, i, given[static_cast<size_t>(i)], type);
    } else if (type.has_rank()) {
      const int axis = context.axis(layout.output_axes[static_cast<size_t>(i - layout.num_states)], type.rank() + 1);
      type.dims->insert(type.dims->begin() + axis, length.value_or(Dim::unknown()));
    }
    if (type.has_rank() && num_batch_axes == 1) type.dims->insert(type.dims->begin(), batch.value_or(Dim::unknown()));
    context.set_type(i, std::move(type));
  }
}

// Runs the body along one sequence of `length`; `states` become the last ones, `outputs` hold `num_steps` pieces each.
void scan_sequence(RunContext& context, const Layout& layout, const std::vector<Tensor>& inputs, int64_t length,
                   std::vector<Value>& states, std::vector<Stack>& outputs) {
  for (int64_t step = 0; step < length; ++step) {
    std::vector<Value> given;
    given.reserve(states.size() + inputs.size());
    for (Value& state : states) given.push_back(std::move(state));
    for (size_t i = 0; i < inputs.size(); ++i) {
      const int axis = context.axis(layout.axes[i], inputs[i].rank());
      given.emplace_back(take_piece(context, inputs[i], axis, layout.directions[i] != 0 ? length - 1 - step : step));
    }
    std::vector<Value> results = context.run_graph(*layout.body, std::move(given));
    for (size_t i = 0; i < states.size(); ++i) states[i] = std::move(results[i]);
    for (size_t k = 0; k < outputs.size(); ++k) {
      outputs[k].put(context, layout.num_states + static_cast<int>(k),
                     layout.output_directions[k] != 0 ? length - 1 - step : step, results[states.size() + k]);
    }
  }
}

const ValueType& declared_type(const Layout& layout, size_t k) {
  return layout.body->value(layout.body->outputs[static_cast<size_t>(layout.num_states) + k]).type;
}

std::vector<Stack> make_stacks(const Layout& layout, int64_t length) {
  std::vector<Stack> stacks;
  for (int k = 0; k < layout.num_outputs; ++k) {
    stacks.emplace_back(length, /*is_exact=*/true, layout.output_axes[static_cast<size_t>(k)]);
  }
  return stacks;
}

void infer_scan_9(InferContext& context) { infer_scan(context, 0); }

void run_scan_9(RunContext& context) {
  const Layout layout = read_layout(context.node(), context.num_inputs(), context.num_outputs());
  std::vector<Value> states;
  for (int i = 0; i < layout.num_states; ++i) states.push_back(context.input_value(i));
  std::vector<Tensor> inputs;
  for (int i = 0; i < layout.num_inputs; ++i) inputs.push_back(context.input(layout.num_states + i));
  const int64_t length = inputs[0].dim(context.axis(layout.axes[0], inputs[0].rank()));
  std::vector<Stack> outputs = make_stacks(layout, length);
  scan_sequence(context, layout, inputs, length, states, outputs);
  for (int i = 0; i < context.num_outputs(); ++i) {
    if (i < layout.num_states) {
      context.set(i, std::move(states[static_cast<size_t>(i)]));
    } else {
      const size_t k = static_cast<size_t>(i - layout.num_states);
      context.set(i, outputs[k].take(context, i, length, declared_type(layout, k)));
    }
  }
}

void infer_scan_8(InferContext& context) { infer_scan(context, 1); }

// A tensor with zeros up to `length` along axis 0.
Tensor pad_to(RunContext& context, const Tensor& tensor, int64_t length) {
  Shape shape = tensor.shape();
  shape[0] = length;
  Tensor padded = context.make(tensor.type(), shape);
  fill_with_zeros(padded);
  if (tensor.count() > 0) {
    move_elements(tensor.type(), tensor.raw(), padded.raw(), {{tensor.count(), 1, 1}}, context.pool());
  }
  return padded;
}

void run_scan_8(RunContext& context) {
  const Layout layout = read_layout(context.node(), context.num_inputs(), context.num_outputs());
  auto get_input = [&](int i) -> const Tensor& { return context.input(1 + i); };
  const Tensor& first = get_input(layout.num_states);
  if (first.rank() < 2) {
    context.fail("a scan input is {}; it has to have a batch and a sequence dimension", to_string(first));
  }
  const int64_t num_batches = first.dim(0), max_length = first.dim(1);
  std::vector<int64_t> lengths(static_cast<size_t>(num_batches), max_length);
  if (context.has_input(0)) {
    lengths = to_ints(context.input(0));
    if (static_cast<int64_t>(lengths.size()) != num_batches) {
      context.fail("there are {} sequence lengths for {} sequences", lengths.size(), num_batches);
    }
  }
  std::vector<Stack> whole(static_cast<size_t>(layout.num_states + layout.num_outputs),
                           Stack(num_batches, /*is_exact=*/true));
  for (int64_t batch = 0; batch < num_batches; ++batch) {
    const int64_t length = lengths[static_cast<size_t>(batch)];
    if (length < 0 || length > max_length) {
      context.fail("a sequence length is {}; sequences have {}", length, max_length);
    }
    std::vector<Value> states;
    for (int i = 0; i < layout.num_states; ++i) states.emplace_back(take_piece(context, get_input(i), 0, batch));
    std::vector<Tensor> inputs;
    for (int i = 0; i < layout.num_inputs; ++i) {
      const Tensor example = take_piece(context, get_input(layout.num_states + i), 0, batch);
      inputs.push_back(take_slice(context, example, 0, 0, length));
    }
    std::vector<Stack> outputs = make_stacks(layout, length);
    scan_sequence(context, layout, inputs, length, states, outputs);
    for (int i = 0; i < context.num_outputs(); ++i) {
      const size_t k = static_cast<size_t>(i);
      if (i < layout.num_states) {
        whole[k].put(context, i, batch, states[k]);
      } else {
        const size_t o = k - static_cast<size_t>(layout.num_states);
        whole[k].put(context, i, batch,
                     pad_to(context, outputs[o].take(context, i, length, declared_type(layout, o)), max_length));
      }
    }
  }
  for (int i = 0; i < context.num_outputs(); ++i) {
    ValueType declared;
    if (i < layout.num_states) {
      const Tensor& state = get_input(i);
      declared = ValueType::tensor(state.type(), to_dims(state.shape()));
      declared.dims->erase(declared.dims->begin());
    } else {
      declared = declared_type(layout, static_cast<size_t>(i - layout.num_states));
      if (declared.dims) declared.dims->insert(declared.dims->begin(), max_length);
    }
    context.set(i, whole[static_cast<size_t>(i)].take(context, i, num_batches, declared));
  }
}

constexpr OpInfo kOps[] = {
    {"", "Scan", 8, 8, infer_scan_8, run_scan_8, OpInfo::kMakesOutputs},
    {"", "Scan", 9, 0, infer_scan_9, run_scan_9, OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> scan_ops() { return kOps; }

}  // namespace sluice::graph::ops
