#include "graph/op_kernel.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>

#include "base/check.h"
#include "graph/kernels/list.h"
#include "graph/ops/elementwise_program.h"

namespace sluice::graph {
namespace {

// Elementwise on floats, with NumPy's broadcasting or one number for attributes: any order of elements will do, and the
// output may take the memory of an input of its shape.
bool is_elementwise(const Node& node) {
  static const std::set<std::string_view> kNames = {
      "Abs", "Acos", "Add", "Asin", "Atan", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Elementwise", "Elu", "Erf",
      "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul",
      "Neg", "Not", "Pow", "QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus",
      "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where",
      // With one scale for all.
      "DequantizeLinear", "QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QuantizeLinear"};
  if (node.domain != "" && node.domain != "sluice" && node.domain != "com.microsoft") return false;
  // Before opset 7 broadcasting was along named axes.
  return kNames.contains(node.op_type) && (node.domain != "" || node.opset >= 7);
}

}  // namespace

OpKernel::OpKernel(Node node, std::vector<TensorInfo> inputs, std::vector<const Tensor*> constants,
                   std::vector<TensorInfo> outputs)
    : node_(std::move(node)),
      input_infos_(std::move(inputs)),
      output_infos_(std::move(outputs)),
      inputs_(input_infos_.size()),
      outputs_(std::max(output_infos_.size(), kMinOutputs)),
      made_(outputs_.size()),
      given_(input_infos_.size(), nullptr),
      types_(outputs_.size()),
      buffers_(std::make_shared<BufferPool>()),
      random_(0) {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (constants[i] != nullptr) inputs_[i] = Value(constants[i]->reshaped(input_infos_[i].shape));
    if (input_infos_[i].type != ElementType::kUndefined) given_[i] = &inputs_[i];
  }
  bool leaves_out = false;
  for (size_t i = 0; i < output_infos_.size(); ++i) {
    leaves_out |= output_infos_[i].type == ElementType::kUndefined;
    types_[i] = ValueType::tensor(output_infos_[i].type, to_dims(output_infos_[i].shape));
  }
  if (leaves_out) infer_left_out();
}

// Operators may fill outputs that the node leaves out, and have to know how large these are.
void OpKernel::infer_left_out() {
  std::vector<InferContext::Input> known(input_infos_.size());
  for (size_t i = 0; i < known.size(); ++i) {
    const TensorInfo& info = input_infos_[i];
    if (info.type == ElementType::kUndefined) continue;
    known[i].type = ValueType::tensor(info.type, to_dims(info.shape));
    if (!inputs_[i].is_none()) known[i].value = &inputs_[i];
  }
  std::vector<InferContext::Output> inferred(outputs_.size());
  const InferContext::InferGraph no_bodies = [](const Graph& body, const std::vector<ValueType>&) {
    return std::vector<ValueType>(body.outputs.size());
  };
  InferContext context(node_, known, inferred, &no_bodies);
  node_.op->infer(context);
  for (size_t i = 0; i < types_.size(); ++i) {
    const bool is_left_out = i >= output_infos_.size() || output_infos_[i].type == ElementType::kUndefined;
    if (is_left_out) types_[i] = std::move(inferred[i].type);
  }
}

void OpKernel::run(std::span<const void* const> inputs, std::span<void* const> outputs, void*, ThreadPool& pool) {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (inputs[i] == nullptr || (!inputs_[i].is_none() && inputs_[i].tensor.raw() == inputs[i])) continue;
    inputs_[i] = Value(Tensor::wrap(input_infos_[i].type, input_infos_[i].shape, inputs[i], nullptr));
  }
  for (size_t i = 0; i < output_infos_.size(); ++i) {
    if (outputs[i] == nullptr) continue;
    if (outputs_[i].is_none() || outputs_[i].tensor.raw() != outputs[i]) {
      outputs_[i] = Value(Tensor::wrap(output_infos_[i].type, output_infos_[i].shape, outputs[i], nullptr));
    }
    made_[i] = outputs_[i];
  }
  run_op_typed(node_, given_, made_, types_,
               {.pool = &pool, .buffers = buffers_.get(), .random = &random_, .run_graph = nullptr});
  for (size_t i = 0; i < made_.size(); ++i) {
    if (i < output_infos_.size() && outputs[i] != nullptr) {
      CHECK(made_[i].kind == Value::Kind::kTensor && made_[i].tensor.bytes() == outputs_[i].tensor.bytes(),
            node_.describe());
      if (made_[i].tensor.raw() != outputs[i] && made_[i].tensor.bytes() > 0) {
        std::memcpy(outputs[i], made_[i].tensor.raw(), static_cast<size_t>(made_[i].tensor.bytes()));
      }
    }
    made_[i] = Value();
  }
}

std::optional<Shape> permuted_shape(const TensorInfo& info, Layout layout) {
  const Shape& shape = info.shape;
  if (layout == Layout::kPlain) return shape;
  Shape permuted{shape[0]};
  int64_t block = 0;
  if (layout == Layout::kBlocked16) {
    if (shape[1] != 1 && shape[1] % 16 != 0) return std::nullopt;
    block = shape[1] == 1 ? 1 : 16;
    permuted.push_back(shape[1] / block);
  } else {
    block = shape[1];
  }
  for (int d = 2; d < shape.rank(); ++d) permuted.push_back(shape[d]);
  permuted.push_back(block);
  return permuted;
}

bool is_same_order(const Shape& shape, Layout a, Layout b) {
  if (a == b) return true;
  if (shape.rank() < 3) return false;
  const bool is_point = shape.count(2, shape.rank()) == 1;
  if (a == Layout::kBlocked16 || b == Layout::kBlocked16) {
    if (shape[1] % 16 != 0) return false;
    return is_point || (shape[1] == 16 && a != Layout::kPlain && b != Layout::kPlain);
  }
  return is_point || shape[1] == 1;
}

namespace kernels {
namespace {

// Elementwise operators as a program of one step, or of more: vectors as wide as the processor has, any mix of float32,
// bf16 and bool.
class ProgramKernel final : public Kernel {
 public:
  ProgramKernel(const ops::ElementwiseProgram& program, const std::vector<TensorInfo>& inputs,
                const std::vector<const Tensor*>& constants, const TensorInfo& output, int num_threads)
      : program_(program), output_(output), scratch_bytes_(program.scratch_bytes(num_threads)) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      operands_.push_back({constants[i] == nullptr ? nullptr : constants[i]->raw(), inputs[i].shape, inputs[i].type});
    }
  }
  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void* scratch,
           ThreadPool& pool) override {
    for (size_t i = 0; i < operands_.size(); ++i) {
      if (inputs[i] != nullptr) operands_[i].data = inputs[i];
    }
    program_.run(pool, operands_, output_.shape, outputs[0], output_.type, scratch);
  }
  size_t scratch_bytes() const override { return scratch_bytes_; }

 private:
  const ops::ElementwiseProgram program_;
  std::vector<ops::ElementwiseProgram::Operand> operands_;
  const TensorInfo output_;
  const size_t scratch_bytes_;
};

// The node as a program; nullopt if it is none.
std::optional<ops::ElementwiseProgram> find_program(const Node& node, const std::vector<TensorInfo>& inputs,
                                                    const TensorInfo& output) {
  auto is_taken = [](ElementType type) {
    return type == ElementType::kF32 || type == ElementType::kBF16 || type == ElementType::kBool;
  };
  bool has_bf16 = false;
  for (const TensorInfo& input : inputs) {
    if (!is_taken(input.type)) return std::nullopt;
    has_bf16 |= input.type == ElementType::kBF16;
  }
  if (output.type != (has_bf16 ? ElementType::kBF16 : ElementType::kF32)) return std::nullopt;
  if (node.op_type == "Elementwise") return ops::ElementwiseProgram::parse(node);
  const auto count = static_cast<size_t>(ops::ElementwiseProgram::num_operands(node.op_type));
  if (!node.domain.empty() || !node.attributes.empty() || count == 0 || count != inputs.size()) return std::nullopt;
  // Of bools these are other operators, or none.
  if (inputs.back().type == ElementType::kBool) return std::nullopt;
  Node step;
  step.inputs = node.inputs;
  std::string text = node.op_type;
  for (size_t i = 0; i < count; ++i) text += " x" + std::to_string(i);
  step.attributes["program"] = {.kind = Attribute::Kind::kStrings, .strings = {text}};
  return ops::ElementwiseProgram::parse(step);
}

bool is_fold(const Node& node) {
  return node.op_type == "Max" || node.op_type == "Mean" || node.op_type == "Min" || node.op_type == "Sum";
}

// The choice to run the operator's own code in this layout; nullopt if that is not possible.
std::optional<KernelChoice> permuted_choice(const KernelRequest& request, Layout layout, const Node& node) {
  const int rank = request.outputs[0].shape.rank();
  KernelChoice choice{.name = std::string(node.op_type) + " " + name(layout)};
  // Max, Mean, Min and Sum of several go over the output again and again, and read their later inputs after the first
  // time.
  const bool may_overwrite = request.inputs.size() <= 2 || !is_fold(node);
  std::vector<TensorInfo> inputs(request.inputs.begin(), request.inputs.end());
  std::vector<TensorInfo> outputs(request.outputs.begin(), request.outputs.end());
  std::vector<const Tensor*> constants(request.constants.begin(), request.constants.end());
  for (size_t i = 0; i < inputs.size(); ++i) {
    TensorInfo& info = inputs[i];
    choice.inputs.push_back(Layout::kPlain);
    if (info.type == ElementType::kUndefined) continue;
    if (may_overwrite && choice.in_place < 0 && constants[i] == nullptr && info.shape == request.outputs[0].shape &&
        info.type == request.outputs[0].type) {
      choice.in_place = static_cast<int>(i);
    }
    if (layout == Layout::kPlain) continue;
    Shape wide(rank, 1);
    for (int d = 0; d < info.shape.rank(); ++d) wide[rank - info.shape.rank() + d] = info.shape[d];
    info.shape = wide;
    const std::optional<Shape> permuted = permuted_shape(info, layout);
    if (!permuted) return std::nullopt;
    // Of one that is a single line of numbers, or has but one channel, the order is the same.
    if (!is_same_order(info.shape, Layout::kPlain, layout) && info.shape.count() != wide[1] && wide[1] != 1) {
      if (request.inputs[i].shape.rank() != rank) return std::nullopt;
      choice.inputs.back() = layout;
      constants[i] = nullptr;
    }
    info.shape = *permuted;
  }
  for (TensorInfo& info : outputs) {
    const std::optional<Shape> permuted = permuted_shape(info, layout);
    // A block of one channel would have to be filled up.
    if (!permuted || (layout == Layout::kBlocked16 && info.shape[1] == 1)) return std::nullopt;
    info.shape = *permuted;
    choice.outputs.push_back(layout);
  }
  if (std::optional<ops::ElementwiseProgram> program = find_program(node, inputs, outputs[0])) {
    choice.make = [program, inputs, constants, outputs, num_threads = request.num_threads] {
      return std::make_unique<ProgramKernel>(*program, inputs, constants, outputs[0], num_threads);
    };
    return choice;
  }
  choice.make = [node, inputs, constants, outputs] {
    return std::make_unique<OpKernel>(node, inputs, constants, outputs);
  };
  return choice;
}

}  // namespace

std::vector<KernelChoice> list_permuted(const KernelRequest& request) {
  if (!is_elementwise(request.node) || request.outputs.size() != 1) return {};
  const std::string& op = request.node.op_type;
  if ((op == "QuantizeLinear" || op == "DequantizeLinear") && request.inputs[1].shape.count() != 1) return {};
  const Shape& y = request.outputs[0].shape;
  std::vector<KernelChoice> choices;
  for (const Layout layout : {Layout::kPlain, Layout::kChannelsLast, Layout::kBlocked16}) {
    if (layout != Layout::kPlain && (y.rank() < 3 || y.rank() > 5 || !can_reorder(request))) break;
    if (std::optional<KernelChoice> choice = permuted_choice(request, layout, request.node)) {
      choices.push_back(std::move(*choice));
    }
  }
  return choices;
}

std::vector<KernelChoice> list_quantised_pool(const KernelRequest& request) {
  const Shape& x = request.inputs[0].shape;
  if (x.rank() < 3 || request.outputs.size() != 1 || request.node.get_int("channels_last", 0) != 0) return {};
  std::vector<KernelChoice> choices;
  for (const Layout layout : {Layout::kPlain, Layout::kChannelsLast}) {
    Node node = request.node;
    std::vector<TensorInfo> inputs(request.inputs.begin(), request.inputs.end());
    std::vector<TensorInfo> outputs(request.outputs.begin(), request.outputs.end());
    inputs[0].shape = *permuted_shape(inputs[0], layout);
    outputs[0].shape = *permuted_shape(outputs[0], layout);
    node.attributes["channels_last"] = {.kind = Attribute::Kind::kInt, .i = layout == Layout::kChannelsLast};
    KernelChoice choice{.name = node.op_type + " " + name(layout)};
    choice.inputs.assign(inputs.size(), Layout::kPlain);
    choice.inputs[0] = layout;
    choice.outputs = {layout};
    choice.make = [node, inputs, outputs,
                   constants = std::vector<const Tensor*>(request.constants.begin(), request.constants.end())] {
      return std::make_unique<OpKernel>(node, inputs, constants, outputs);
    };
    choices.push_back(std::move(choice));
  }
  return choices;
}

}  // namespace kernels
}  // namespace sluice::graph
