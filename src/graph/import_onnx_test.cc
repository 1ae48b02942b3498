#include "graph/import_onnx.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "graph/executor.h"
#include "onnx.pb.h"

namespace sluice::graph {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A model of opset 17 whose nodes, inputs and outputs a test adds.
struct Builder {
  onnx::ModelProto model;

  Builder() {
    model.set_ir_version(8);
    auto* opset = model.add_opset_import();
    opset->set_domain("");
    opset->set_version(17);
  }
  onnx::GraphProto& graph() { return *model.mutable_graph(); }
  static void declare(onnx::ValueInfoProto* info, const std::string& name, const std::vector<std::string>& dims,
                      int type = 1) {
    info->set_name(name);
    auto* tensor = info->mutable_type()->mutable_tensor_type();
    tensor->set_elem_type(type);
    tensor->mutable_shape();
    for (const std::string& dim : dims) {
      auto* to = tensor->mutable_shape()->add_dim();
      if (std::isdigit(dim[0])) to->set_dim_value(std::stoll(dim));
      else to->set_dim_param(dim);
    }
  }
  void input(const std::string& name, const std::vector<std::string>& dims, int type = 1) {
    declare(graph().add_input(), name, dims, type);
  }
  void output(const std::string& name) { graph().add_output()->set_name(name); }
  void floats(const std::string& name, const std::vector<float>& values) {
    set_floats(*graph().add_initializer(), name, values);
  }
  static void set_floats(onnx::TensorProto& tensor, const std::string& name, const std::vector<float>& values) {
    tensor.set_name(name);
    tensor.set_data_type(1);
    tensor.add_dims(static_cast<int64_t>(values.size()));
    for (float value : values) tensor.add_float_data(value);
  }
  template <typename Owner>
  static onnx::NodeProto* node(Owner& owner, const std::string& op, const std::vector<std::string>& inputs,
                               const std::vector<std::string>& outputs) {
    auto* made = owner.add_node();
    made->set_op_type(op);
    for (const auto& input : inputs) made->add_input(input);
    for (const auto& output : outputs) made->add_output(output);
    return made;
  }
  onnx::NodeProto* node(const std::string& op, const std::vector<std::string>& inputs,
                        const std::vector<std::string>& outputs) {
    return node(graph(), op, inputs, outputs);
  }
  std::string bytes() const { return model.SerializeAsString(); }
  Model import(const std::string& directory = "") const { return import_bytes(bytes(), directory); }
  static Model import_bytes(const std::string& bytes, const std::string& directory = "") {
    return import_onnx({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "made", directory);
  }
};

std::vector<float> run(Model model, const std::vector<Value>& inputs) {
  Executor executor(std::make_shared<const Model>(std::move(model)), {.num_threads = 1});
  const std::vector<Value> outputs = executor.run(inputs);
  const auto values = outputs[0].tensor.values<float>();
  return {values.begin(), values.end()};
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

Value floats(const std::vector<float>& values) { return Tensor::vector(values); }

TEST(ImportOnnx, NodesMayStandInAnyOrder) {
  Builder b;
  b.input("x", {"n"});
  b.node("Neg", {"y"}, {"z"});
  b.node("Add", {"x", "x"}, {"y"});
  b.output("z");
  EXPECT_THAT(run(b.import(), {floats({1, 2})}), ElementsAre(-2, -4));
}

TEST(ImportOnnx, InitialisersThatAreInputsAreDefaults) {
  Builder b;
  b.input("x", {"2"});
  b.input("w", {"2"});
  b.floats("w", {10, 20});
  b.node("Add", {"x", "w"}, {"y"});
  b.output("y");
  EXPECT_THAT(run(b.import(), {floats({1, 2}), Value()}), ElementsAre(11, 22));
  EXPECT_THAT(run(b.import(), {floats({1, 2}), floats({3, 4})}), ElementsAre(4, 6));
  b.model.set_ir_version(3);  // in which every initialiser had to be an input
  EXPECT_EQ(b.import().graph.inputs.size(), 1u);
}

TEST(ImportOnnx, FunctionsArePutInPlace) {
  Builder b;
  auto* import = b.model.add_opset_import();
  import->set_domain("my");
  import->set_version(1);
  auto* function = b.model.add_functions();
  function->set_domain("my");
  function->set_name("Scaled");
  for (const char* name : {"a", "b"}) function->add_input(name);
  function->add_output("c");
  function->add_attribute("value");
  *function->add_opset_import() = b.model.opset_import(0);
  auto* constant = Builder::node(*function, "Constant", {}, {"factor"});
  auto* attribute = constant->add_attribute();
  attribute->set_name("value_float");
  attribute->set_ref_attr_name("value");
  attribute->set_type(1);
  Builder::node(*function, "Mul", {"a", "factor"}, {"s"});
  Builder::node(*function, "Add", {"s", "b"}, {"c"});
  b.input("x", {"n"});
  auto add_call = [&](const std::string& input, const std::string& output, float factor) {
    auto* call = b.node("Scaled", {input, "x"}, {output});
    call->set_domain("my");
    auto* given = call->add_attribute();
    given->set_name("value");
    given->set_type(1);
    given->set_f(factor);
  };
  add_call("x", "y", 2);
  add_call("y", "z", 10);
  b.output("z");
  const Model model = b.import();
  EXPECT_EQ(model.graph.nodes.size(), 4u);
  EXPECT_THAT(run(b.import(), {floats({1, 2})}), ElementsAre(31, 62));

  Builder::node(*function, "Scaled", {"a", "b"}, {"unused"})->set_domain("my");
  EXPECT_THAT(error_of([&] { b.import(); }), HasSubstr("calls itself"));
}

TEST(ImportOnnx, ExternalDataLiesBesideTheModel) {
  const std::string directory = testing::TempDir() + "/external_data";
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/weights.bin", std::ios::binary).write("\0\0\0\0\0\0\x80\x3f\0\0\0\x40", 12);  // 0, 1, 2
  auto with_location = [&](const std::string& location, const std::string& offset) {
    Builder b;
    b.input("x", {"2"});
    auto* tensor = b.graph().add_initializer();
    tensor->set_name("w");
    tensor->set_data_type(1);
    tensor->add_dims(2);
    tensor->set_data_location(1);
    for (const auto& [key, value] : {std::pair{std::string("location"), location}, {"offset", offset}}) {
      auto* entry = tensor->add_external_data();
      entry->set_key(key);
      entry->set_value(value);
    }
    b.node("Add", {"x", "w"}, {"y"});
    b.output("y");
    return b;
  };
  EXPECT_THAT(run(with_location("weights.bin", "4").import(directory), {floats({10, 20})}), ElementsAre(11, 22));
  EXPECT_THAT(error_of([&] { with_location("weights.bin", "8").import(directory); }), HasSubstr("has 12 bytes"));
  EXPECT_THAT(error_of([&] { with_location("../weights.bin", "0").import(directory); }), HasSubstr("beside the model"));
  EXPECT_THAT(error_of([&] { with_location("/etc/hostname", "0").import(directory); }), HasSubstr("beside the model"));
  EXPECT_THAT(error_of([&] { with_location("weights.bin", "-4").import(directory); }), HasSubstr("'-4'"));
  EXPECT_THAT(error_of([&] { with_location("weights.bin", "0").import(); }), HasSubstr("from memory"));
  EXPECT_THAT(error_of([&] { with_location("nothing.bin", "0").import(directory); }), HasSubstr("'nothing.bin'"));

  // Links: inside the folder, out of it, and as in Hugging Face's cache.
  namespace fs = std::filesystem;
  const fs::path cache = fs::path(directory) / "models--a--b", snapshot = cache / "snapshots/0123/onnx";
  fs::remove_all(cache);
  for (const fs::path& each : {snapshot / "sub", cache / "blobs", cache / "other"}) fs::create_directories(each);
  for (const fs::path& each : {snapshot / "sub/inside", cache / "blobs/4567", cache / "other/secret"}) {
    fs::copy_file(directory + "/weights.bin", each);
  }
  fs::create_symlink("sub/inside", snapshot / "near");
  fs::create_symlink("../../../blobs/4567", snapshot / "model.onnx_data");
  fs::create_symlink("../../../other/secret", snapshot / "far");
  fs::create_directory_symlink("../../../other", snapshot / "folder");
  for (const char* name : {"near", "model.onnx_data", "sub/inside"}) {
    EXPECT_THAT(run(with_location(name, "4").import(snapshot), {floats({10, 20})}), ElementsAre(11, 22)) << name;
  }
  for (const char* name : {"far", "folder/secret"}) {
    EXPECT_THAT(error_of([&] { with_location(name, "4").import(snapshot); }), HasSubstr("outside the model's folder"));
  }
}

TEST(ImportOnnx, BodiesSeeWhatIsAroundThem) {
  Builder b;
  b.input("x", {"n"});
  b.input("flag", {}, 9);
  auto* node = b.node("If", {"flag"}, {"y"});
  for (const char* branch : {"then_branch", "else_branch"}) {
    auto* attribute = node->add_attribute();
    attribute->set_name(branch);
    attribute->set_type(5);
    Builder::node(*attribute->mutable_g(), branch[0] == 't' ? "Neg" : "Abs", {"later"}, {"out"});
    attribute->mutable_g()->add_output()->set_name("out");
  }
  b.node("Add", {"x", "x"}, {"later"});  // in the file after the node whose bodies read it
  b.output("y");
  Tensor yes(ElementType::kBool, {}), no(ElementType::kBool, {});
  *yes.data<bool>() = true;
  *no.data<bool>() = false;
  EXPECT_THAT(run(b.import(), {floats({1, -2}), yes}), ElementsAre(-2, 4));
  EXPECT_THAT(run(b.import(), {floats({1, -2}), no}), ElementsAre(2, 4));
}

// A body of an If that gives what a node makes of `inputs`.
onnx::GraphProto* add_branch(onnx::NodeProto* node, const char* branch, const std::string& op,
                             const std::vector<std::string>& inputs, const std::string& output) {
  auto* attribute = node->add_attribute();
  attribute->set_name(branch);
  attribute->set_type(5);
  Builder::node(*attribute->mutable_g(), op, inputs, {output});
  attribute->mutable_g()->add_output()->set_name(output);
  return attribute->mutable_g();
}

Value boolean(bool value) {
  Tensor tensor(ElementType::kBool, {});
  *tensor.data<bool>() = value;
  return tensor;
}

onnx::FunctionProto* add_function(Builder& b, const std::string& name, const std::vector<std::string>& inputs,
                                  const std::vector<std::string>& outputs) {
  if (b.model.opset_import_size() == 1) {
    auto* import = b.model.add_opset_import();
    import->set_domain("my");
    import->set_version(1);
  }
  auto* function = b.model.add_functions();
  function->set_domain("my");
  function->set_name(name);
  for (const auto& input : inputs) function->add_input(input);
  for (const auto& output : outputs) function->add_output(output);
  *function->add_opset_import() = b.model.opset_import(0);
  return function;
}

template <typename Owner>
onnx::NodeProto* add_call(Owner& owner, const std::string& name, const std::vector<std::string>& inputs,
                          const std::vector<std::string>& outputs) {
  onnx::NodeProto* node = Builder::node(owner, name, inputs, outputs);
  node->set_domain("my");
  return node;
}

double seconds_of(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A body's own "t" is not the one that a later node of the graph around it makes; nor is that of a body in it.
TEST(ImportOnnx, BodiesHideNamesOfTheGraphAround) {
  Builder b;
  b.input("x", {"n"});
  b.input("flag", {}, 9);
  auto* node = b.node("If", {"flag"}, {"y"});
  auto* then_body = add_branch(node, "then_branch", "Neg", {"t"}, "out");
  Builder::node(*then_body, "Add", {"x", "x"}, {"t"});  // in any order here too
  auto* else_body = add_branch(node, "else_branch", "Identity", {"inner"}, "out");
  Builder::set_floats(*else_body->add_initializer(), "t", {100, 200});
  auto* nested = Builder::node(*else_body, "If", {"flag"}, {"inner"});
  add_branch(nested, "then_branch", "Neg", {"t"}, "out");
  add_branch(nested, "else_branch", "Abs", {"t"}, "out");
  b.node("Abs", {"y"}, {"t"});
  b.node("Add", {"t", "x"}, {"z"});
  b.output("z");
  EXPECT_THAT(run(b.import(), {floats({1, -2}), boolean(true)}), ElementsAre(3, 2));
  EXPECT_THAT(run(b.import(), {floats({1, -2}), boolean(false)}), ElementsAre(101, 198));

  // What a body reads and does not define is waited for: the node would read what it makes.
  Builder own;
  own.input("flag", {}, 9);
  auto* reads_own = own.node("If", {"flag"}, {"y"});
  add_branch(reads_own, "then_branch", "Neg", {"y"}, "out");
  add_branch(reads_own, "else_branch", "Abs", {"y"}, "out");
  own.output("y");
  EXPECT_THAT(error_of([&] { own.import(); }), HasSubstr("reads its own output 'y'"));
}

TEST(ImportOnnx, LeftOutInputsOfFunctionsAreLeftOutInBodies) {
  Builder b;
  auto* function = add_function(b, "Limited", {"a", "flag", "high"}, {"c"});
  auto* choice = Builder::node(*function, "If", {"flag"}, {"c"});
  add_branch(choice, "then_branch", "Clip", {"a", "", "high"}, "out");
  add_branch(choice, "else_branch", "Neg", {"a"}, "out");
  b.input("x", {"n"});
  b.input("flag", {}, 9);
  add_call(b.graph(), "Limited", {"x", "flag"}, {"y"});
  b.output("y");
  EXPECT_THAT(run(b.import(), {floats({1, -2}), boolean(true)}), ElementsAre(1, -2));
  EXPECT_THAT(run(b.import(), {floats({1, -2}), boolean(false)}), ElementsAre(-1, 2));
}

TEST(ImportOnnx, FunctionsAreChecked) {
  auto error = [](const std::function<void(Builder&, onnx::FunctionProto&)>& change) {
    Builder b;
    auto* function = add_function(b, "F", {"a"}, {"c"});
    b.input("x", {"n"});
    add_call(b.graph(), "F", {"x"}, {"y"});
    b.output("y");
    change(b, *function);
    return error_of([&] { b.import(); });
  };
  auto add_neg = [](onnx::FunctionProto& function) { Builder::node(function, "Neg", {"a"}, {"c"}); };
  EXPECT_EQ(error([&](Builder&, auto& function) { add_neg(function); }), "");
  EXPECT_THAT(error([&](Builder&, auto&) {}), HasSubstr("function 'F': output 'c' is made by no node"));
  EXPECT_THAT(error([&](Builder&, auto& function) {
                add_neg(function);
                function.mutable_opset_import(0)->set_version(99);
              }),
              HasSubstr("function 'F' needs opset 99"));
  EXPECT_THAT(error([&](Builder& b, auto& function) {
                add_neg(function);
                *b.model.add_functions() = onnx::FunctionProto(function);
              }),
              HasSubstr("function 'F' is there twice"));
  EXPECT_THAT(error([&](Builder&, auto& function) {
                add_neg(function);
                function.add_input("a");
              }),
              HasSubstr("input 'a' is there twice"));
  EXPECT_THAT(error([&](Builder&, auto& function) { Builder::node(function, "Neg", {"c"}, {"a"}); }),
              HasSubstr("makes 'a', which is an input"));
}

// Two outputs of one name, and one that is an input, are the same value for the caller.
TEST(ImportOnnx, FunctionsMayGiveAValueTwice) {
  Builder b;
  auto* function = add_function(b, "F", {"a"}, {"c", "c", "a"});
  Builder::node(*function, "Neg", {"a"}, {"c"});
  b.input("x", {"n"});
  add_call(b.graph(), "F", {"x"}, {"y", "z", "same"});
  b.node("Add", {"y", "z"}, {"twice"});
  b.node("Mul", {"twice", "same"}, {"w"});
  b.output("w");
  EXPECT_THAT(run(b.import(), {floats({1, 3})}), ElementsAre(-2, -18));
}

TEST(ImportOnnx, OutputsOfFunctionsKeepTheirDeclaredType) {
  Builder b;
  auto* function = add_function(b, "F", {"a", "shape"}, {"c"});
  Builder::node(*function, "Reshape", {"a", "shape"}, {"c"});
  b.input("x", {"n"});
  b.input("shape", {"2"}, 7);
  add_call(b.graph(), "F", {"x", "shape"}, {"y"});
  Builder::declare(b.graph().add_output(), "y", {"rows", "4"});
  const Model model = b.import();
  EXPECT_EQ(to_string(model.graph.value(model.graph.outputs[0]).type), "float32 [rows x 4]");
}

TEST(ImportOnnx, NothingIsSaidTwice) {
  auto error = [](bool is_call) {
    Builder b;
    auto* function = add_function(b, "F", {"a"}, {"c"});
    Builder::node(*function, "Softmax", {"a"}, {"c"});
    b.input("x", {"n"});
    auto* node = is_call ? add_call(b.graph(), "F", {"x"}, {"y"}) : b.node("Softmax", {"x"}, {"y"});
    for (int axis : {0, 1}) {
      auto* attribute = node->add_attribute();
      attribute->set_name("axis");
      attribute->set_type(2);
      attribute->set_i(axis);
    }
    b.output("y");
    return error_of([&] { b.import(); });
  };
  EXPECT_THAT(error(false), HasSubstr("attribute 'axis' is there twice"));
  EXPECT_THAT(error(true), HasSubstr("attribute 'axis' is there twice"));

  Builder b;
  b.input("x", {"n"});
  b.node("Neg", {"x"}, {"y"});
  b.output("y");
  auto* again = b.model.add_opset_import();
  again->set_domain("ai.onnx");
  again->set_version(17);
  EXPECT_EQ(error_of([&] { b.import(); }), "");
  again->set_version(16);
  EXPECT_THAT(error_of([&] { b.import(); }), HasSubstr("opsets 17 and 16"));
}

// Tensors of functions are read once: 1000 calls of one with a tensor of 1 MB share it.
TEST(ImportOnnx, CallsShareTensors) {
  Builder b;
  auto* function = add_function(b, "F", {"a"}, {"c"});
  auto* attribute = Builder::node(*function, "Constant", {}, {"w"})->add_attribute();
  attribute->set_name("value");
  attribute->set_type(4);
  Builder::set_floats(*attribute->mutable_t(), "", std::vector<float>(1 << 18, 1.0f));
  Builder::node(*function, "Add", {"a", "w"}, {"c"});
  b.input("v0", {"1"});
  for (int i = 0; i < 1000; ++i) add_call(b.graph(), "F", {fmt::format("v{}", i)}, {fmt::format("v{}", i + 1)});
  b.output("v1000");
  const Model model = b.import();
  std::set<const void*> memory;
  size_t num_constants = 0;
  for (const GraphValue& value : model.graph.values) {
    if (!value.constant) continue;
    ++num_constants;
    memory.insert(value.constant->tensor.raw());
  }
  EXPECT_EQ(num_constants, 1000u);
  EXPECT_EQ(memory.size(), 1u);
}

// Small files that ask for much: refused, or read, but soon.
TEST(ImportOnnx, FunctionsCannotAskForMuchTime) {
  Builder doubling;
  for (int i = 0; i < 30; ++i) {
    auto* function = add_function(doubling, fmt::format("F{}", i), {"a"}, {"c"});
    for (int k = 0; k < 2 && i > 0; ++k) {
      add_call(*function, fmt::format("F{}", i - 1), {k == 0 ? "a" : "b"}, {k == 0 ? "b" : "c"});
    }
    if (i == 0) function->set_output(0, "a");  // no node at all
  }
  doubling.input("x", {"n"});
  add_call(doubling.graph(), "F29", {"x"}, {"y"});
  doubling.output("y");
  std::string error;
  EXPECT_LT(seconds_of([&] { error = error_of([&] { doubling.import(); }); }), 20);  // sanitizers included
  EXPECT_THAT(error, HasSubstr("more than"));

  Builder declaring;
  auto* function = add_function(declaring, "F", {"a"}, {"c"});
  for (int i = 0; i < 3000; ++i) function->add_attribute(fmt::format("attribute_{}", i));
  for (int i = 0; i < 3000; ++i) {
    auto* attribute = function->add_attribute_proto();
    attribute->set_name(fmt::format("default_{}", i));
    attribute->set_type(2);
    attribute->set_i(i);
  }
  Builder::node(*function, "Neg", {"a"}, {"c"});
  declaring.input("v0", {"n"});
  for (int i = 0; i < 3000; ++i) {
    add_call(declaring.graph(), "F", {fmt::format("v{}", i)}, {fmt::format("v{}", i + 1)});
  }
  declaring.output("v3000");
  EXPECT_LT(seconds_of([&] { EXPECT_EQ(error_of([&] { declaring.import(); }), ""); }), 10);

  Builder copying;  // 1 MB of attributes in each of 1000 calls
  auto* large = add_function(copying, "F", {"a"}, {"c"});
  auto* attribute = Builder::node(*large, "Neg", {"a"}, {"c"})->add_attribute();
  attribute->set_name("numbers");
  attribute->set_type(6);
  for (int i = 0; i < 1 << 18; ++i) attribute->add_floats(1);
  copying.input("v0", {"n"});
  for (int i = 0; i < 1000; ++i) add_call(copying.graph(), "F", {fmt::format("v{}", i)}, {fmt::format("v{}", i + 1)});
  copying.output("v1000");
  EXPECT_THAT(error_of([&] { copying.import(); }), HasSubstr("put in place of their calls, need more than"));
}

TEST(ImportOnnx, ShapesAreInferredWithSymbols) {
  Builder b;
  b.input("x", {"batch", "length", "64"});
  b.node("Shape", {"x"}, {"shape"});
  b.graph().mutable_node(0)->set_name("shape_of_x");
  auto* index = b.graph().add_initializer();
  index->set_name("one");
  index->set_data_type(7);
  index->add_int64_data(1);
  index->add_dims(1);
  auto* rest = b.graph().add_initializer();
  rest->set_name("heads");
  rest->set_data_type(7);
  rest->add_dims(2);
  rest->add_int64_data(4);
  rest->add_int64_data(-1);
  auto* zero = b.graph().add_initializer();
  zero->set_name("zero");
  zero->set_data_type(7);
  zero->add_dims(1);
  zero->add_int64_data(0);
  b.node("Gather", {"shape", "zero"}, {"batch_dim"});
  b.node("Gather", {"shape", "one"}, {"length_dim"});
  auto* concat = b.node("Concat", {"batch_dim", "length_dim", "heads"}, {"target"});
  auto* axis = concat->add_attribute();
  axis->set_name("axis");
  axis->set_type(2);
  axis->set_i(0);
  b.node("Reshape", {"x", "target"}, {"y"});
  b.output("y");
  const Model model = b.import();
  EXPECT_EQ(to_string(model.graph.value(model.graph.outputs[0]).type), "float32 [batch x length x 4 x 16]");
}

TEST(ImportOnnx, AllProblemsAreToldAtOnce) {
  Builder b;
  b.input("x", {"n"});
  b.node("Frobnicate", {"x"}, {"a"})->set_name("first");
  b.node("Add", {"a", "nowhere"}, {"b"})->set_name("second");
  b.output("b");
  b.output("c");
  const std::string error = error_of([&] { b.import(); });
  EXPECT_THAT(error, HasSubstr("node 'first' (Frobnicate, opset 17): no operator of this name"));
  EXPECT_THAT(error, HasSubstr("node 'second' (Add, opset 17): reads 'nowhere'"));
  EXPECT_THAT(error, HasSubstr("output 'c' is made by no node"));
}

TEST(ImportOnnx, RefusesWhatFitsNotTogether) {
  auto error = [](const std::function<void(Builder&)>& change) {
    Builder b;
    b.input("x", {"n"});
    change(b);
    b.output("y");
    return error_of([&] { b.import(); });
  };
  EXPECT_THAT(error([](Builder& b) {
                b.node("Neg", {"z"}, {"y"});
                b.node("Neg", {"y"}, {"z"});
              }),
              HasSubstr("cycle"));
  EXPECT_THAT(error([](Builder& b) { b.node("Neg", {"y"}, {"y"}); }), HasSubstr("its own output"));
  EXPECT_THAT(error([](Builder& b) {
                b.node("Neg", {"x"}, {"y"});
                b.node("Abs", {"x"}, {"y"});
              }),
              HasSubstr("made by two nodes"));
  EXPECT_THAT(error([](Builder& b) {
                b.node("Neg", {"x"}, {"y"});
                b.graph().add_initializer()->CopyFrom([] {
                  onnx::TensorProto tensor;
                  Builder::set_floats(tensor, "w", {1, 2});
                  tensor.set_dims(0, int64_t{1} << 40);
                  return tensor;
                }());
              }),
              HasSubstr("w"));
  EXPECT_THAT(error([](Builder& b) { b.model.mutable_opset_import(0)->set_version(999); }), HasSubstr("opset 999"));
  EXPECT_THAT(error_of([] { Builder::import_bytes("not a model"); }), HasSubstr("no ONNX model"));
  EXPECT_THAT(error_of([] { import_onnx("/nowhere/model.onnx"); }), HasSubstr("/nowhere/model.onnx"));
}

TEST(ImportOnnx, InputsAreChecked) {
  Builder b;
  b.input("x", {"batch", "3"});
  b.input("y", {"batch", "1"});
  b.node("Add", {"x", "y"}, {"z"});
  b.output("z");
  Executor executor(std::make_shared<const Model>(b.import()), {.num_threads = 1});
  auto error = [&](std::vector<Value> inputs) { return error_of([&] { executor.run(inputs); }); };
  auto tensor = [](const Shape& shape) {
    return Value(Tensor::vector(std::vector<float>(static_cast<size_t>(shape.count()), 1.0f), shape));
  };
  EXPECT_EQ(error({tensor({2, 3}), tensor({2, 1})}), "");
  EXPECT_THAT(error({tensor({2, 3})}), HasSubstr("2 inputs; 1 were given"));
  EXPECT_THAT(error({tensor({2, 4}), tensor({2, 1})}), HasSubstr("dimension 1 has to be 3, not 4"));
  EXPECT_THAT(error({tensor({2, 3}), tensor({5, 1})}), HasSubstr("'batch' is 2 in input 'x' and 5 in input 'y'"));
  EXPECT_THAT(error({tensor({6}), tensor({2, 1})}), HasSubstr("it has to be float32 [batch x 3]"));
  EXPECT_THAT(error({Tensor::vector<int64_t>({1, 2, 3}, {1, 3}), tensor({1, 1})}), HasSubstr("int64 1x3"));
  EXPECT_THAT(error({tensor({2, 3}), Value()}), HasSubstr("'y' is missing"));
}

// Damaged files give an Error or a model, soon, and nothing else.
TEST(ImportOnnx, SurvivesDamagedFiles) {
  Builder b;
  b.input("x", {"batch", "3"});
  b.floats("w", {1, 2, 3});
  b.node("Add", {"x", "w"}, {"s"});
  auto* node = b.node("Concat", {"s", "x"}, {"y"});
  auto* axis = node->add_attribute();
  axis->set_name("axis");
  axis->set_type(2);
  axis->set_i(1);
  b.node("Shape", {"y"}, {"shape"});
  b.node("Reshape", {"y", "shape"}, {"z"});
  b.output("z");
  const std::string good = b.bytes();
  EXPECT_EQ(error_of([&] { Builder::import_bytes(good); }), "");
  for (size_t size = 0; size < good.size(); ++size) {
    error_of([&] { Builder::import_bytes(good.substr(0, size)); });
  }
  Random random(20);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20000; ++i) {
    std::string bad = good;
    for (uint64_t change = 0; change <= random.next() % 4; ++change) {
      bad[random.next() % bad.size()] = static_cast<char>(random.next());
    }
    error_of([&] {
      Executor executor(std::make_shared<const Model>(Builder::import_bytes(bad)),
                        {.num_threads = 1, .max_bytes = 1 << 20});
      std::vector<Value> inputs(executor.model().graph.inputs.size(), Value(Tensor::vector<float>({1, 2, 3}, {1, 3})));
      executor.run(inputs);
    });
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(120));
}

}  // namespace
}  // namespace sluice::graph
