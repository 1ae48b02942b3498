// ONNX files: imported, optimised, and run on small inputs. A model may ask for work without end in good faith (a Loop
// of 2^63 rounds), so those with loops of more than a few rounds are not run.
#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/random.h"
#include "fuzz/fuzz.h"
#include "graph/executor.h"
#include "graph/import_onnx.h"
#include "graph/passes.h"
#include "onnx.pb.h"

namespace sluice::fuzz {
namespace {

constexpr int64_t kMaxRounds = 16;
constexpr int64_t kMaxInputDim = 16;

onnx::NodeProto* add_node(google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes, const std::string& op,
                          const std::vector<std::string>& inputs, const std::vector<std::string>& outputs) {
  onnx::NodeProto* node = nodes.Add();
  node->set_op_type(op);
  for (const std::string& input : inputs) node->add_input(input);
  for (const std::string& output : outputs) node->add_output(output);
  return node;
}

void declare(onnx::ValueInfoProto* info, const std::string& name, int type, const std::vector<std::string>& dims) {
  info->set_name(name);
  auto* tensor = info->mutable_type()->mutable_tensor_type();
  tensor->set_elem_type(type);
  for (const std::string& dim : dims) tensor->mutable_shape()->add_dim()->set_dim_param(dim);
}

// A function with an attribute and an input that is left out, which a body reads; bodies that read what is around them.
std::string make_model_with_function() {
  onnx::ModelProto model;
  model.set_ir_version(8);
  for (const char* domain : {"", "my"}) {
    auto* opset = model.add_opset_import();
    opset->set_domain(domain);
    opset->set_version(*domain == 0 ? 17 : 1);
  }
  auto* function = model.add_functions();
  function->set_domain("my");
  function->set_name("Scaled");
  for (const char* input : {"a", "flag", "high"}) function->add_input(input);
  function->add_output("c");
  function->add_attribute("factor");
  *function->add_opset_import() = model.opset_import(0);
  auto* factor = add_node(*function->mutable_node(), "Constant", {}, {"f"})->add_attribute();
  factor->set_name("value_float");
  factor->set_ref_attr_name("factor");
  factor->set_type(1);
  auto* choice = add_node(*function->mutable_node(), "If", {"flag"}, {"c"});
  for (const char* branch : {"then_branch", "else_branch"}) {
    auto* attribute = choice->add_attribute();
    attribute->set_name(branch);
    attribute->set_type(5);
    auto* body = attribute->mutable_g();
    if (*branch == 't') add_node(*body->mutable_node(), "Mul", {"a", "f"}, {"out"});
    else add_node(*body->mutable_node(), "Clip", {"a", "", "high"}, {"out"});
    body->add_output()->set_name("out");
  }
  auto& graph = *model.mutable_graph();
  declare(graph.add_input(), "x", 1, {"batch", "n"});
  declare(graph.add_input(), "flag", 9, {});
  for (int i = 0; i < 2; ++i) {
    auto* call = add_node(*graph.mutable_node(), "Scaled", {i == 0 ? "x" : "y", "flag"}, {i == 0 ? "y" : "z"});
    call->set_domain("my");
    auto* given = call->add_attribute();
    given->set_name("factor");
    given->set_type(1);
    given->set_f(2);
  }
  declare(graph.add_output(), "z", 1, {"batch", "n"});
  return model.SerializeAsString();
}

// What a mutation may change, in the graph, its bodies and the functions.
struct Parts {
  std::vector<google::protobuf::RepeatedPtrField<onnx::NodeProto>*> lists;
  std::vector<onnx::NodeProto*> nodes;
  std::vector<onnx::AttributeProto*> attributes;
  std::vector<onnx::TensorProto*> tensors;
  std::vector<onnx::ValueInfoProto*> infos;
  std::vector<std::string> names = {""};

  void add(google::protobuf::RepeatedPtrField<onnx::NodeProto>* list) {
    lists.push_back(list);
    for (auto& node : *list) {
      nodes.push_back(&node);
      names.insert(names.end(), node.input().begin(), node.input().end());
      names.insert(names.end(), node.output().begin(), node.output().end());
      for (auto& attribute : *node.mutable_attribute()) {
        attributes.push_back(&attribute);
        if (attribute.has_t()) tensors.push_back(attribute.mutable_t());
        if (attribute.has_g()) add(attribute.mutable_g());
        for (auto& body : *attribute.mutable_graphs()) add(&body);
      }
    }
  }
  void add(onnx::GraphProto* graph) {
    add(graph->mutable_node());
    for (auto& tensor : *graph->mutable_initializer()) {
      tensors.push_back(&tensor);
      names.push_back(tensor.name());
    }
    for (auto& info : *graph->mutable_input()) infos.push_back(&info);
    for (auto& info : *graph->mutable_output()) infos.push_back(&info);
    for (const onnx::ValueInfoProto* info : infos) names.push_back(info->name());
  }
};

int64_t make_number(Random& random) {
  switch (random.below(4)) {
    case 0: return static_cast<int64_t>(random.below(5)) - 2;
    case 1: return static_cast<int64_t>(random.below(40)) - 20;
    case 2: return static_cast<int64_t>(uint64_t{1} << random.below(64));
    default: return -static_cast<int64_t>(random.below(uint64_t{1} << 62));
  }
}

template <typename Numbers>
void change_numbers(Numbers& numbers, Random& random) {
  if (numbers.empty() || random.below(4) == 0) {
    numbers.Add(make_number(random));
  } else if (random.below(3) == 0) {
    numbers.RemoveLast();
  } else {
    numbers.Set(static_cast<int>(random.below(static_cast<uint64_t>(numbers.size()))), make_number(random));
  }
}

void change_node(Parts& parts, Random& random) {
  auto pick = [&](const auto& list) { return list[random.below(list.size())]; };
  onnx::NodeProto& node = *pick(parts.nodes);
  const onnx::NodeProto other = *pick(parts.nodes);
  switch (random.below(6)) {
    case 0:
      node.set_op_type(other.op_type());
      node.set_domain(other.domain());
      break;
    case 1: node.add_input(pick(parts.names)); break;
    case 2:
      if (node.input_size() > 0) node.mutable_input()->RemoveLast();
      break;
    case 3:
      if (node.input_size() > 0) {
        node.set_input(static_cast<int>(random.below(static_cast<uint64_t>(node.input_size()))), pick(parts.names));
      }
      break;
    case 4:
      if (other.attribute_size() > 0) *node.add_attribute() = other.attribute(0);
      break;
    case 5: *pick(parts.lists)->Add() = other; break;
  }
}

bool is_constant_up_to(const graph::GraphValue& value, int64_t most) {
  if (!value.constant || value.constant->kind != graph::Value::Kind::kTensor) return false;
  const graph::Tensor& tensor = value.constant->tensor;
  return tensor.type() == graph::ElementType::kI64 && tensor.count() == 1 && tensor.data<int64_t>()[0] <= most;
}

bool is_short(const graph::Graph& graph) {
  for (const graph::Node& node : graph.nodes) {
    if (node.op_type == "Loop") {
      if (node.inputs.empty() || node.inputs[0] == graph::kNoValue) return false;
      if (!is_constant_up_to(graph.value(node.inputs[0]), kMaxRounds)) return false;
    }
    for (const auto& [name, attribute] : node.attributes) {
      for (const auto& body : attribute.graphs) {
        if (!is_short(*body)) return false;
      }
    }
  }
  return true;
}

// Small numbers, true, short strings, empty sequences.
graph::Value make_input(const graph::GraphValue& input) {
  using graph::ElementType;
  if (input.constant || input.type.kind == graph::ValueType::Kind::kOptional) return {};
  if (input.type.kind == graph::ValueType::Kind::kSequence) return graph::Value(std::vector<graph::Value>());
  if (!input.type.is_tensor()) return {};
  graph::Shape shape;
  if (input.type.dims) {
    for (const graph::Dim& dim : *input.type.dims) {
      shape.push_back(dim.is_known() ? std::min(dim.value(), kMaxInputDim) : 2);
    }
  }
  const ElementType type = input.type.element == ElementType::kUndefined ? ElementType::kF32 : input.type.element;
  if (shape.count() > 1 << 16) return {};
  graph::Tensor tensor(type, shape);
  if (type == ElementType::kString) {
    for (int64_t i = 0; i < tensor.count(); ++i) tensor.data<std::string>()[i] = i % 2 == 0 ? "one two" : "";
    return tensor;
  }
  std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.bytes()));
  const int64_t width = get_info(type).bytes;
  for (int64_t i = 0; i < tensor.count(); ++i) {
    auto* element = static_cast<uint8_t*>(tensor.raw()) + i * width;
    if (type == ElementType::kF32) {
      const float value = static_cast<float>(i % 5) - 1.5f;
      std::memcpy(element, &value, sizeof value);
    } else {
      *element = 1;
    }
  }
  return tensor;
}

}  // namespace

std::vector<std::string> make_seeds() { return {make_model_with_function()}; }

std::vector<std::string> make_dictionary() {
  return {"Reshape", "Concat", "Gather", "Slice", "Loop", "Scan", "If", "axis", "axes", "shape", "ai.onnx.ml",
          "com.microsoft", std::string(8, '\xff')};
}

std::string mutate_structure(const std::string& input, uint64_t seed) {
  onnx::ModelProto model;
  if (!model.ParseFromString(input)) return input;
  Parts parts;
  parts.add(model.mutable_graph());
  for (auto& function : *model.mutable_functions()) parts.add(function.mutable_node());
  if (parts.nodes.empty()) return input;
  Random random(seed);
  auto pick = [&](const auto& list) { return list[random.below(list.size())]; };
  const uint64_t kind = random.below(8);
  if (kind == 0 && !parts.attributes.empty()) {
    onnx::AttributeProto& attribute = *pick(parts.attributes);
    if (attribute.has_i()) attribute.set_i(make_number(random));
    else if (attribute.has_f()) attribute.set_f(static_cast<float>(make_number(random)));
    else change_numbers(*attribute.mutable_ints(), random);
  } else if (kind == 1 && !parts.tensors.empty()) {
    onnx::TensorProto& tensor = *pick(parts.tensors);
    if (tensor.int64_data_size() > 0) {
      change_numbers(*tensor.mutable_int64_data(), random);
    } else {
      change_numbers(*tensor.mutable_dims(), random);
    }
  } else if (kind == 2 && !parts.infos.empty()) {
    auto& type = *pick(parts.infos)->mutable_type()->mutable_tensor_type();
    if (random.below(2) == 0) {
      type.set_elem_type(static_cast<int>(random.below(graph::kNumElementTypes)));
    } else if (type.shape().dim_size() == 0 || random.below(3) == 0) {
      type.mutable_shape()->add_dim()->set_dim_value(static_cast<int64_t>(random.below(4)));
    } else {
      type.mutable_shape()->mutable_dim()->RemoveLast();
    }
  } else if (kind == 3 && model.opset_import_size() > 0) {
    const auto num_opsets = static_cast<uint64_t>(model.opset_import_size());
    model.mutable_opset_import(static_cast<int>(random.below(num_opsets)))
        ->set_version(static_cast<int64_t>(random.below(30)));
  } else {
    change_node(parts, random);
  }
  return model.SerializeAsString();
}

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  try {
    auto model = std::make_shared<graph::Model>(graph::import_onnx({data, size}, "fuzz.onnx"));
    graph::optimise(*model);
    if (!fuzz::is_short(model->graph)) return 0;
    std::vector<graph::Value> inputs;
    for (const graph::ValueId id : model->graph.inputs) inputs.push_back(fuzz::make_input(model->graph.value(id)));
    graph::Executor executor(model, {.num_threads = 1, .max_bytes = 16 << 20});
    executor.run(inputs);
    return 0;
  } catch (const Error&) {
    return -1;
  }
}
