// An operator: a name, what it says about types and shapes, and how it is computed.
//
// Every operator has two functions. infer() says what its outputs are, from what is known of its inputs; it is called
// when a model is loaded, with symbols for what is not known, and again at run time, when everything is. run()
// computes; outputs whose shape infer() told are there already, others (their size depends on the data) it allocates
// itself. Neither function keeps state. A new operator is a file in ops/, or a line in one, and a line in op_table.cc's
// list.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "graph/ir.h"

namespace sluice::graph {

// Outputs that an operator may have at least: a node that names fewer still has room for them, so that no operator has
// to ask before it fills one that its definition demands.
inline constexpr size_t kMinOutputs = 6;

// What a shape function may see and say.
class InferContext {
 public:
  // One input: its type; its value where that is known; or, of small integer tensors that hold shapes, its elements.
  struct Input {
    ValueType type;
    const Value* value = nullptr;
    const std::vector<Dim>* ints = nullptr;
  };
  struct Output {
    ValueType type;
    std::optional<std::vector<Dim>> ints;
  };
  using InferGraph = std::function<std::vector<ValueType>(const Graph&, const std::vector<ValueType>& inputs)>;

  // `outputs` has room for at least kMinOutputs, however many the node names.
  InferContext(const Node& node, std::span<const Input> inputs, std::span<Output> outputs,
               const InferGraph* infer_graph)
      : node_(node), inputs_(inputs), outputs_(outputs), infer_graph_(infer_graph) {}

  const Node& node() const { return node_; }
  int opset() const { return node_.opset; }
  int num_inputs() const { return static_cast<int>(inputs_.size()); }
  int num_outputs() const { return static_cast<int>(node_.outputs.size()); }
  bool has_input(int i) const { return i < num_inputs() && node_.inputs[static_cast<size_t>(i)] != kNoValue; }
  bool has_output(int i) const { return i < num_outputs() && node_.outputs[static_cast<size_t>(i)] != kNoValue; }

  // Throws Error if the node has no such input.
  const ValueType& type(int i) const;
  ElementType element(int i) const { return type(i).element; }
  bool has_rank(int i) const { return has_input(i) && type(i).has_rank(); }
  int rank(int i) const { return type(i).rank(); }         // REQUIRES: has_rank(i)
  const Dims& dims(int i) const { return *type(i).dims; }  // REQUIRES: has_rank(i)
  // Null if the value is not known yet or left out.
  const Tensor* constant(int i) const;
  const Value* constant_value(int i) const { return has_input(i) ? inputs_[static_cast<size_t>(i)].value : nullptr; }
  // The elements of an integer tensor, known or symbolic; nullopt if nothing is known of them.
  std::optional<std::vector<Dim>> ints(int i) const;
  // The same where all of them are plain integers.
  std::optional<std::vector<int64_t>> known_ints(int i) const;

  void set_output(int i, ElementType element, Dims dims) { set_type(i, ValueType::tensor(element, std::move(dims))); }
  void set_output(int i, ElementType element) { set_type(i, ValueType::tensor(element)); }  // of any rank
  void set_type(int i, ValueType type);
  void set_ints(int i, std::vector<Dim> ints);  // also of a scalar: one element
  std::vector<ValueType> infer_graph(const Graph& body, const std::vector<ValueType>& inputs) const {
    return (*infer_graph_)(body, inputs);
  }

  // Throws an Error that begins with the node's name.
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    ::sluice::fail(Code::kInvalidArgument, "{}: {}", node_.describe(),
                   fmt::format(format, std::forward<Args>(args)...));
  }
  // 0 <= result < rank. Throws Error.
  int axis(int64_t axis, int rank) const;

 private:
  const Node& node_;
  std::span<const Input> inputs_;
  std::span<Output> outputs_;
  const InferGraph* infer_graph_;
};

// What a node runs with.
class RunContext {
 public:
  using RunGraph = std::function<std::vector<Value>(const Node&, const Graph&, std::vector<Value> inputs)>;

  struct Environment {
    ThreadPool* pool = nullptr;  // never null while a graph runs
    BufferPool* buffers = nullptr;
    Random* random = nullptr;  // of operators without a seed
    const RunGraph* run_graph = nullptr;
  };

  RunContext(const Node& node, std::span<const Value* const> inputs, std::span<Value> outputs,
             std::span<const ValueType> output_types, const Environment& environment)
      : node_(node), inputs_(inputs), outputs_(outputs), output_types_(output_types), environment_(environment) {}

  const Node& node() const { return node_; }
  int opset() const { return node_.opset; }
  int num_inputs() const { return static_cast<int>(inputs_.size()); }
  int num_outputs() const { return static_cast<int>(node_.outputs.size()); }
  bool has_input(int i) const { return i < num_inputs() && node_.inputs[static_cast<size_t>(i)] != kNoValue; }
  bool has_output(int i) const { return i < num_outputs() && node_.outputs[static_cast<size_t>(i)] != kNoValue; }

  // Throws Error if the input is left out, or no tensor.
  const Tensor& input(int i) const;
  const Value& input_value(int i) const;
  template <typename T>
  const T* data(int i) const {
    return input(i).data<T>();
  }
  template <typename T>
  T get_scalar(int i, T otherwise) const {  // the first element; `otherwise` if the input is left out
    return has_input(i) ? input(i).data<T>()[0] : otherwise;
  }

  // The output that infer() told the shape of. Writable, also where the model left it out.
  Tensor& output(int i) { return outputs_[static_cast<size_t>(i)].tensor; }
  template <typename T>
  T* output_data(int i) {
    return output(i).data<T>();
  }
  bool is_allocated(int i) const { return !outputs_[static_cast<size_t>(i)].is_none(); }
  const ValueType& output_type(int i) const { return output_types_[static_cast<size_t>(i)]; }
  // An output whose shape only run() knows.
  Tensor& allocate(int i, ElementType type, const Shape& shape);
  // An output that shares the memory of something else, or is no tensor.
  void set(int i, Value value) { outputs_[static_cast<size_t>(i)] = std::move(value); }
  // Scratch memory.
  Tensor make(ElementType type, const Shape& shape) const { return Tensor(type, shape, environment_.buffers); }

  ThreadPool& pool() const { return *environment_.pool; }
  Random& random() const { return *environment_.random; }
  std::vector<Value> run_graph(const Graph& body, std::vector<Value> inputs) const {
    return (*environment_.run_graph)(node_, body, std::move(inputs));
  }

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    ::sluice::fail(Code::kInvalidArgument, "{}: {}", node_.describe(),
                   fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void fail_type(int i) const;  // "does not take int4 as input 2"
  int axis(int64_t axis, int rank) const;

 private:
  const Node& node_;
  std::span<const Value* const> inputs_;
  std::span<Value> outputs_;
  std::span<const ValueType> output_types_;
  const Environment& environment_;
};

struct OpInfo {
  enum Flags : uint8_t {
    kNone = 0,
    // run() knows no f16 and bf16: the executor gives it f32 in their place and rounds what it makes, once.
    kViaFloat = 1,
    // Another result each time (random numbers): never folded or merged.
    kImpure = 2,
    // run() sets all outputs itself (they share an input's memory): none is allocated for it, even if the shape is
    // known.
    kMakesOutputs = 4,
  };

  const char* domain;  // "" is ai.onnx
  const char* name;
  int first_opset;  // in which it is defined
  int last_opset;   // 0: still is
  void (*infer)(InferContext& context);
  void (*run)(RunContext& context);
  uint8_t flags = kNone;
};

inline constexpr const char* kMicrosoft = "com.microsoft";
inline constexpr const char* kMl = "ai.onnx.ml";

// The operator for a node of that domain ("" or "ai.onnx" are the same), name and opset; null if there is none.
const OpInfo* find_op(std::string_view domain, std::string_view name, int opset);
// Every operator, sorted by domain and name.
std::vector<const OpInfo*> list_ops();
// Why there is no such operator, one line that tells what the table does have: another version, another domain, or why
// it was left out. Never empty.
std::string explain_missing_op(std::string_view domain, std::string_view name, int opset);

// Shape functions that many operators share (shapes.cc).

// Multidirectional broadcasting (ONNX "Broadcasting in ONNX").  Throws Error through `context`.
Dims broadcast(const InferContext& context, const Dims& a, const Dims& b);
// Output 0 is as input 0, in type and shape.
void infer_same(InferContext& context);
// Output 0 has input 0's type and the broadcast shape of all inputs.
void infer_broadcast(InferContext& context);
// The same, of bools.
void infer_broadcast_bool(InferContext& context);

}  // namespace sluice::graph
