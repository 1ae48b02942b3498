// A model as operators and the values between them: what the importers make, passes rewrite and the executor runs.
//
// A Graph owns its nodes and a list of values; nodes name values by index. Nodes stand in an order in which every input
// comes before its use. The bodies of If, Loop and Scan are Graphs inside an attribute of their node; what they use of
// the graph around them is listed in `captures`, so a body never looks outside. Constant values carry their tensor.
// Plain data, without behaviour; one thread changes a graph at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/dim.h"
#include "graph/tensor.h"

namespace sluice::graph {

using ValueId = int32_t;
inline constexpr ValueId kNoValue = -1;  // an optional input or output that is left out

// What is known of a value before run time.
struct ValueType {
  enum class Kind : uint8_t { kUnknown, kTensor, kSequence, kOptional, kMap };

  static ValueType tensor(ElementType element) { return {.kind = Kind::kTensor, .element = element}; }
  static ValueType tensor(ElementType element, Dims dims) {
    return {.kind = Kind::kTensor, .element = element, .dims = std::move(dims)};
  }
  static ValueType sequence(ValueType of) {
    return {.kind = Kind::kSequence, .inner = std::make_shared<const ValueType>(std::move(of))};
  }
  static ValueType optional(ValueType of) {
    return {.kind = Kind::kOptional, .inner = std::make_shared<const ValueType>(std::move(of))};
  }
  bool is_tensor() const { return kind == Kind::kTensor; }
  bool has_rank() const { return dims.has_value(); }
  int rank() const { return static_cast<int>(dims->size()); }  // REQUIRES: has_rank()

  Kind kind = Kind::kUnknown;
  ElementType element = ElementType::kUndefined;  // of a tensor; of a map's values
  std::optional<Dims> dims;                       // of a tensor; nullopt: not even the rank is known
  std::shared_ptr<const ValueType> inner;         // of a sequence or an optional; of a map: null
  ElementType key = ElementType::kUndefined;      // of a map
};
std::string to_string(const ValueType& type);  // "float32 [batch x 3 x 224 x 224]", "sequence of int64 [?]"

struct Graph;

struct Attribute {
  enum class Kind : uint8_t {
    kFloat, kInt, kString, kTensor, kGraph, kFloats, kInts, kStrings, kTensors, kGraphs, kType
  };
  Kind kind = Kind::kInt;
  float f = 0;
  int64_t i = 0;
  std::string s;
  std::vector<float> floats;
  std::vector<int64_t> ints;
  std::vector<std::string> strings;
  std::vector<Tensor> tensors;                 // one for kTensor
  std::vector<std::shared_ptr<Graph>> graphs;  // one for kGraph
  ValueType type;
};

struct OpInfo;

// What an operator makes of its attributes alone (a forest of trees, a table of words), kept with the node from its
// first run on. Any thread may ask; two that ask first may both make it. A copy of a node begins without. Attributes
// must not change once a node has run.
class Prepared {
 public:
  Prepared() = default;
  Prepared(const Prepared&) noexcept {}
  Prepared& operator=(const Prepared&) noexcept {
    kept_ = nullptr;
    return *this;
  }
  // make() gives a std::shared_ptr<const T>. REQUIRES: the same T every time.
  template <typename T, typename Make>
  std::shared_ptr<const T> get(Make&& make) const {
    {
      const std::lock_guard lock(mutex_);
      if (kept_ != nullptr) return std::static_pointer_cast<const T>(kept_);
    }
    std::shared_ptr<const T> made = make();
    const std::lock_guard lock(mutex_);
    kept_ = made;
    return made;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const void> kept_;
};

struct Node {
  std::string op_type;                 // "Conv"
  std::string domain;                  // "" is ai.onnx
  std::string name;                    // as the model has it, or made up: "Conv_12"; never empty
  int opset = 0;                       // version of the domain that the model was written for
  std::vector<ValueId> inputs, outputs;
  std::map<std::string, Attribute, std::less<>> attributes;
  const OpInfo* op = nullptr;          // op.h; null until resolved
  Prepared prepared;

  const Attribute* find(std::string_view name) const;
  // The attribute, or `otherwise` if the node has none. Throws Error if it is of another kind.
  int64_t get_int(std::string_view name, int64_t otherwise) const;
  float get_float(std::string_view name, float otherwise) const;
  std::string get_string(std::string_view name, const std::string& otherwise) const;
  std::vector<int64_t> get_ints(std::string_view name, std::vector<int64_t> otherwise = {}) const;
  std::vector<float> get_floats(std::string_view name, std::vector<float> otherwise = {}) const;
  std::vector<std::string> get_strings(std::string_view name) const;
  const Tensor* find_tensor(std::string_view name) const;
  // Throws Error if there is none.
  const Graph& get_graph(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }
  std::string describe() const;  // "node 'conv1' (Conv, opset 13)"
};

struct GraphValue {
  std::string name;
  ValueType type;
  std::optional<Value> constant;  // its value, if that is known before run time
  ValueType declared;             // what the file says of a value that a node makes; it may be wrong
};

// A value of the graph around a body, and the body's own name for it.
struct Capture {
  ValueId outer, inner;
};

struct Graph {
  std::string name;
  std::vector<GraphValue> values;
  std::vector<Node> nodes;
  // Initialisers that are also inputs are inputs here, with a constant as default.
  std::vector<ValueId> inputs, outputs;
  std::vector<std::string> output_names;  // of the outputs, whatever value they are
  std::vector<Capture> captures;

  ValueId add_value(std::string name, ValueType type = {});
  GraphValue& value(ValueId id) { return values[static_cast<size_t>(id)]; }
  const GraphValue& value(ValueId id) const { return values[static_cast<size_t>(id)]; }
};

struct Model {
  Graph graph;
  std::map<std::string, int> opsets;        // by domain
  std::string producer;                     // "pytorch 1.13.1"
  int64_t ir_version = 0;
  std::map<std::string, std::string> metadata;
};

// A copy with bodies of its own, which the copy that C++ makes shares with the original. Tensors are shared.
Graph copy_graph(const Graph& graph);
Model copy_model(const Model& model);

}  // namespace sluice::graph
