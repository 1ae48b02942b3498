// What passes that look for patterns share: who makes a value, how often it is used, what is constant; and the
// replacing of nodes.
//
// A pattern is matched from its last node backwards: values lead to the nodes that make them. The last node is then
// replaced in its place, for everything that the pattern read is there by then, and what nobody uses any more dies at
// once. A pass walks the nodes in order, so that what it has made is seen by the matches that follow. Nodes keep their
// address until finish(), which also puts new ones in their place in the order.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "graph/op.h"
#include "graph/passes.h"

namespace sluice::graph::passes {

inline constexpr const char* kSluice = "sluice";

Attribute make_int(int64_t value);
Attribute make_ints(std::vector<int64_t> values);
Attribute make_float(float value);
Attribute make_floats(std::vector<float> values);
Attribute make_string(std::string value);
Attribute make_strings(std::vector<std::string> values);

// REQUIRES: the operator exists.
Node make_node(std::string_view domain, std::string_view op_type, int opset, const Node& named_after,
               std::vector<ValueId> inputs, std::map<std::string, Attribute, std::less<>> attributes = {});

class Rewriter {
 public:
  Rewriter(Graph& graph, PassState& state);

  Graph& graph() { return graph_; }
  bool is_dead(const Node& node) const { return node.op == nullptr; }
  // Nodes that are no part of any match: dead ones, and those of a damaged model that lack inputs which their operator
  // cannot do without (such a node fails when it is reached, if it is). Nor are these the producer of anything.
  bool skips(const Node& node) const { return is_dead(node) || !is_whole(node); }
  // The node that makes the value; null: none, an input or a constant.
  Node* producer(ValueId id) const { return id == kNoValue ? nullptr : producer_[static_cast<size_t>(id)]; }
  // The node that makes the value as its first output, if it is of that ai.onnx operator (or of that domain's).
  Node* made_by(ValueId id, std::string_view op_type, std::string_view domain = "") const;
  int num_uses(ValueId id) const { return uses_[static_cast<size_t>(id)]; }
  bool has_one_use(ValueId id) const { return num_uses(id) == 1; }
  // The same, if nothing else uses that value: then it goes when the pattern goes.
  Node* only_made_by(ValueId id, std::string_view op_type, std::string_view domain = "") const {
    Node* node = made_by(id, op_type, domain);
    return node != nullptr && has_one_use(id) ? node : nullptr;
  }
  // All nodes that read the value, as they stood when the pass began, dead ones left out.
  std::vector<Node*> users(ValueId id) const;
  bool is_output(ValueId id) const { return is_output_[static_cast<size_t>(id)]; }

  const ValueType& type(ValueId id) const { return graph_.value(id).type; }
  bool is_f32(ValueId id) const {
    return id != kNoValue && type(id).is_tensor() && type(id).element == ElementType::kF32;
  }
  bool has_rank(ValueId id) const { return id != kNoValue && type(id).is_tensor() && type(id).has_rank(); }
  int rank(ValueId id) const { return type(id).rank(); }         // REQUIRES: has_rank(id)
  const Dims& dims(ValueId id) const { return *type(id).dims; }  // REQUIRES: has_rank(id)
  // Whatever the sizes are.
  bool has_same_dims(ValueId a, ValueId b) const { return has_rank(a) && has_rank(b) && dims(a) == dims(b); }
  std::optional<int64_t> known_dim(ValueId id, int axis) const;  // axis may be negative

  // Null if the value is not known before run time.
  const Tensor* constant(ValueId id) const { return find_constant(graph_, is_input_, id); }
  const Tensor* f32_constant(ValueId id) const;
  // The one number of a constant of one element.
  std::optional<double> scalar(ValueId id) const;
  // An operand and a number, in any order: of a node of two inputs where the number does not add dimensions.
  struct WithScalar {
    ValueId value;
    double number;
    bool is_second;  // the number is the second input
  };
  std::optional<WithScalar> with_scalar(const Node& node) const;

  // Whether the pass may make constants of so many bytes; if so, they count.
  bool take_bytes(int64_t bytes);
  ValueId add_constant(Tensor tensor, const std::string& name);
  ValueId add_value(ValueType type, const std::string& name) { return grow(graph_.add_value(name, std::move(type))); }

  // `made` without outputs takes over those of `node`, and its place.
  Node& replace(Node& node, Node made);
  // A node with one new output of that type, before `node`. Gives the output.
  ValueId insert_before(Node& node, Node made, ValueType type, const std::string& name);
  // A node with outputs of its own.
  Node& insert_before(Node& node, Node made);
  // Everything that reads `from` reads `to` instead. REQUIRES: `to` comes before all of that.
  void substitute(ValueId from, ValueId to);
  // The node reads another value.
  void set_input(Node& node, size_t i, ValueId id);
  // REQUIRES: nobody reads what it makes, or other nodes make that now.
  void remove(Node& node);
  // It stands in no place of graph().nodes yet.
  bool is_inserted(const Node& node) const {
    return std::less<>()(&node, graph_.nodes.data()) ||
           std::greater_equal<>()(&node, graph_.nodes.data() + graph_.nodes.size());
  }
  // Puts dead nodes out and new ones in. True if something has changed.
  bool finish();

 private:
  static bool is_whole(const Node& node);
  ValueId grow(ValueId id);
  void add_uses(const Node& node, Node* as);
  void drop_uses(const Node& node);
  void drop_use(ValueId id);

  Graph& graph_;
  PassState& state_;
  std::vector<bool> is_input_, is_output_;
  std::vector<Node*> producer_;
  std::vector<int> uses_;
  std::vector<std::vector<Node*>> users_;
  std::deque<Node> inserted_;
  std::unordered_map<const Node*, std::vector<Node*>> before_;
  bool has_changed_ = false;
};

// The elements of a float constant as double; of integers too.
std::optional<std::vector<double>> to_doubles(const Tensor& tensor);
bool is_close(double a, double b, double relative = 1e-3);

// What an operator of its own makes of one float tensor, if a fused node can do it: the name and the numbers of
// ops/fused_activation.h.
struct Activation {
  std::string name;
  std::vector<float> parameters;
};
std::optional<Activation> find_activation(const Rewriter& rewriter, const Node& node);
void set_activation(Node& node, const Activation& activation);

// The constant target with which Reshape makes `to` of `from`, whatever the symbols are; nullopt if there is none.
std::optional<std::vector<int64_t>> find_reshape_target(const Dims& from, const Dims& to);

}  // namespace sluice::graph::passes
