// move-qdq: what only moves elements is done on integers, and quantisation that undoes itself goes away.
//
// DequantizeLinear goes below nodes that move elements or pick them (Reshape, Transpose, MaxPool, Concat of equal
// scales, ...): they commute with a function of each element that is monotone. QuantizeLinear goes above such nodes
// towards the node that computes, if nobody else wants the floats, so that fuse-qdq finds it there; and it passes Relu
// and Clip whose bounds its own range has anyhow; those between the two are done on the integers. Where the two meet
// with the same parameters both go away, with other parameters one table of 256 entries does it (a LeakyRelu of slope
// 1). Everything here is exact, but for bounds between two scales.
#include <algorithm>
#include <cmath>
#include <string_view>

#include "graph/passes/quantize_match.h"

namespace sluice::graph::passes {
namespace {

constexpr std::string_view kMovers[] = {
    "Reshape",      "Transpose",    "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice",
    "Gather",       "GatherND",     "Expand",  "Tile",    "Split",     "MaxPool",  "Pad",
    "DepthToSpace", "SpaceToDepth", "Resize",  "Upsample", "GatherElements"};
// Those that hold each element once, or are cheaper on bytes: QuantizeLinear may be done before them.
constexpr std::string_view kLifters[] = {"Reshape",  "Transpose",    "Flatten",      "Squeeze", "Unsqueeze",
                                         "Identity", "DepthToSpace", "SpaceToDepth", "MaxPool"};

template <size_t n>
bool is_one_of(const Node& node, const std::string_view (&names)[n]) {
  return node.domain.empty() && std::find(std::begin(names), std::end(names), node.op_type) != std::end(names);
}

bool pads_with_number(const Node& node) {
  return node.op_type == "Pad" && node.get_string("mode", "constant") == "constant";
}

// Whether the node does the same to integers as to the floats that they stand for.
bool moves_elements(const Rewriter& rewriter, const Node& node) {
  if (!is_one_of(node, kMovers) || node.inputs.empty() || node.outputs[0] == kNoValue) return false;
  const bool has_others =
      std::any_of(node.outputs.begin() + 1, node.outputs.end(), [](ValueId id) { return id != kNoValue; });
  if (has_others && node.op_type != "Split") return false;
  if (node.op_type == "Resize" || node.op_type == "Upsample") {
    // Beyond the edges there is extrapolation_value, a float.
    return node.get_string("mode", "nearest") == "nearest" &&
           node.get_string("coordinate_transformation_mode", "") != "tf_crop_and_resize" &&
           node.get_int("antialias", 0) == 0;
  }
  if (!pads_with_number(node)) return true;
  if (node.opset < 11) return false;  // the number is an attribute
  if (node.inputs.size() < 3 || node.inputs[2] == kNoValue) return true;
  return rewriter.scalar(node.inputs[2]) == 0;  // which is the zero point
}

class Movement {
 public:
  Movement(Graph& graph, PassState& state) : graph_(graph), rewriter_(graph, state) {}

  bool run() {
    for (Node& node : graph_.nodes) {
      if (rewriter_.is_dead(node) || node.outputs.empty()) continue;
      if (node.op_type == "Concat" && node.domain.empty()) lower_through_concat(node);
      else lower_through(node);
    }
    for (Node& node : graph_.nodes) {
      if (rewriter_.is_dead(node) || node.outputs.empty()) continue;
      if (const std::optional<Quantised> to = find_quantisation(rewriter_, node)) lift(node, *to);
    }
    return rewriter_.finish();
  }

 private:
  // As `real` is, but integers.
  ValueType type_like(ValueId real, ElementType element) const {
    ValueType type = rewriter_.type(real);
    type.element = element;
    return type;
  }
  std::string name_like(ValueId real) const { return graph_.value(real).name + "_quantized"; }

  // As `node` but of these inputs, before `place`; gives its output.
  ValueId insert_copy(Node& place, const Node& node, std::vector<ValueId> inputs, ElementType element) {
    Node copy = node;
    copy.inputs = std::move(inputs);
    const ValueId real = node.outputs[0];
    return rewriter_.insert_before(place, std::move(copy), type_like(real, element), name_like(real));
  }

  Node make_dequantise(const Node& named_after, ValueId integers, const Quantised& as) {
    std::vector<ValueId> inputs{integers, as.scale};
    if (as.zero != kNoValue) inputs.push_back(as.zero);
    Node node = make_node("", "DequantizeLinear", 13, named_after, std::move(inputs));
    if (as.axis) node.attributes["axis"] = make_int(*as.axis);
    return node;
  }

  void lower_through(Node& node) {
    if (node.inputs.empty() || node.outputs.empty() || !moves_elements(rewriter_, node)) return;
    const std::optional<Quantised> from = find_quantised(rewriter_, node.inputs[0]);
    if (!from || (node.op_type == "MaxPool" && !is_positive_scale(rewriter_, from->scale))) return;
    Quantised to = *from;
    if (from->axis && !follow_axis(node, to)) return;
    std::vector<ValueId> inputs = node.inputs;
    inputs[0] = from->integers;
    if (pads_with_number(node)) {
      const std::optional<int> zero = find_zero(rewriter_, to);
      if (!zero) return;
      inputs.resize(std::max<size_t>(inputs.size(), 3), kNoValue);
      inputs[2] = rewriter_.add_constant(to.type == ElementType::kU8 ? Tensor::scalar(static_cast<uint8_t>(*zero))
                                                                     : Tensor::scalar(static_cast<int8_t>(*zero)),
                                         graph_.value(from->integers).name + "_pad");
    }
    if (node.outputs.size() == 1) {
      const ValueId moved = insert_copy(node, node, std::move(inputs), to.type);
      rewriter_.replace(node, make_dequantise(node, moved, to));
      return;
    }
    Node split = node;
    split.inputs = std::move(inputs);
    for (ValueId& id : split.outputs) {
      if (id != kNoValue) id = rewriter_.add_value(type_like(id, to.type), name_like(id));
    }
    const Node& inserted = rewriter_.insert_before(node, std::move(split));
    const std::vector<ValueId> parts = inserted.outputs, reals = node.outputs;
    for (size_t i = 0; i < parts.size(); ++i) {
      if (parts[i] == kNoValue) continue;
      const ValueId real = rewriter_.insert_before(node, make_dequantise(node, parts[i], to),
                                                   rewriter_.type(reals[i]), graph_.value(reals[i]).name);
      rewriter_.substitute(reals[i], real);
    }
  }

  // A scale for each index of an axis: weights, which are transposed at most.
  bool follow_axis(const Node& node, Quantised& quantised) const {
    if (node.op_type != "Transpose" || !rewriter_.has_rank(node.inputs[0])) return false;
    const int rank = rewriter_.rank(node.inputs[0]);
    const int axis = *quantised.axis < 0 ? *quantised.axis + rank : *quantised.axis;
    if (axis < 0 || axis >= rank) return false;
    const std::vector<int64_t> order = node.get_ints("perm");
    const auto found = std::find(order.begin(), order.end(), axis);
    if (!order.empty() && found == order.end()) return false;
    quantised.axis = order.empty() ? rank - 1 - axis : static_cast<int>(found - order.begin());
    return true;
  }

  void lower_through_concat(Node& node) {
    std::vector<ValueId> inputs;
    std::optional<Quantised> first;
    for (const ValueId id : node.inputs) {
      const std::optional<Quantised> part = find_quantised(rewriter_, id);
      if (!part || !is_same(rewriter_, first ? *first : *part, *part)) return;
      if (!first) first = part;
      inputs.push_back(part->integers);
    }
    if (!first) return;
    const ValueId joined = insert_copy(node, node, std::move(inputs), first->type);
    rewriter_.replace(node, make_dequantise(node, joined, *first));
  }

  // A node that quantises.
  void lift(Node& node, const Quantised& to) {
    skip_bounds(node, to);
    lower_through_bounds(node, to);
    if (const std::optional<Quantised> from = find_quantised(rewriter_, node.inputs[0])) return join(node, *from, to);
    if (!rewriter_.scalar(to.scale) || !find_zero(rewriter_, to) || !is_positive_scale(rewriter_, to.scale)) return;
    // From here upwards: nodes that move the elements and that nobody else reads.
    std::vector<const Node*> movers;
    ValueId real = node.inputs[0];
    for (;;) {
      const Node* mover = rewriter_.producer(real);
      if (mover == nullptr || !rewriter_.has_one_use(real) || mover->outputs.size() != 1) break;
      if (movers.empty() && mover->domain.empty() && mover->op_type == "Concat")
        return lift_over_concat(node, *mover, to);
      if (!is_one_of(*mover, kLifters) || !moves_elements(rewriter_, *mover)) break;
      // A graph's input or a constant gains nothing.
      if (rewriter_.producer(mover->inputs[0]) == nullptr || !rewriter_.has_one_use(mover->inputs[0])) break;
      movers.push_back(mover);
      real = mover->inputs[0];
    }
    if (movers.empty()) return;
    ValueId integers = insert_quantise(node, node, real, to);
    for (size_t i = movers.size(); i-- > 0;) {
      std::vector<ValueId> inputs = movers[i]->inputs;
      inputs[0] = integers;
      if (i > 0) {
        integers = insert_copy(node, *movers[i], std::move(inputs), to.type);
      } else {
        Node last = *movers[i];
        last.inputs = std::move(inputs);
        rewriter_.replace(node, std::move(last));
      }
    }
  }

  void lift_over_concat(Node& node, const Node& concat, const Quantised& to) {
    Node joined = concat;
    for (const ValueId id : joined.inputs) {
      const bool is_free = find_quantised(rewriter_, id) ||
                           (id != kNoValue && rewriter_.producer(id) != nullptr && rewriter_.has_one_use(id));
      if (!is_free) return;
    }
    for (ValueId& id : joined.inputs) id = insert_quantise(node, node, id, to);
    rewriter_.replace(node, std::move(joined));
  }

  // As the node does it.
  ValueId insert_quantise(Node& place, const Node& node, ValueId real, const Quantised& to) {
    Node quantise = node;
    quantise.inputs[0] = real;
    return rewriter_.insert_before(place, std::move(quantise), type_like(real, to.type), name_like(real));
  }

  // Relu and Clip that cut off no more than the integers' range does, if nobody else wants them.
  void skip_bounds(Node& node, const Quantised& to) {
    for (;;) {
      const ValueId real = node.inputs[0];
      const Node* maker = rewriter_.producer(real);
      const std::optional<Activation> bounds =
          maker == nullptr ? std::nullopt : find_activation(rewriter_, *maker);
      if (!bounds || !is_within_range(rewriter_, *bounds, to) || rewriter_.is_output(real)) return;
      const std::vector<Node*> users = rewriter_.users(real);
      const bool is_for_all = std::all_of(users.begin(), users.end(), [&](const Node* user) {
        const std::optional<Quantised> other = find_quantisation(rewriter_, *user);
        return other && is_within_range(rewriter_, *bounds, *other);
      });
      if (!is_for_all) return;
      rewriter_.set_input(node, 0, maker->inputs[0]);
    }
  }

  // Relu or Clip between dequantisation and quantisation: on the integers, exactly if both are of one scale and else
  // within half a step.
  void lower_through_bounds(Node& node, const Quantised& to) {
    const ValueId real = node.inputs[0];
    const Node* maker = rewriter_.has_one_use(real) ? rewriter_.producer(real) : nullptr;
    const std::optional<Activation> bounds = maker == nullptr ? std::nullopt : find_activation(rewriter_, *maker);
    if (!bounds || (bounds->name != "Relu" && bounds->name != "Clip")) return;
    const std::optional<Quantised> from = find_quantised(rewriter_, maker->inputs[0]);
    const std::optional<double> scale = from ? rewriter_.scalar(from->scale) : std::nullopt;
    const std::optional<int> zero = from ? find_zero(rewriter_, *from) : std::nullopt;
    if (!scale || !zero || from->axis || !is_positive_scale(rewriter_, from->scale)) return;
    const bool is_relu = bounds->name == "Relu";
    if (is_relu && !is_same(rewriter_, *from, to)) return;  // there is a table for both
    if (!is_relu && !(bounds->parameters[0] <= bounds->parameters[1])) return;
    const int lowest = from->type == ElementType::kU8 ? 0 : -128;
    auto round_bound = [&](double bound) {
      return static_cast<int>(
          std::clamp<double>(std::nearbyint(bound / *scale) + *zero, lowest, lowest + 255));
    };
    const int low = round_bound(is_relu ? 0 : bounds->parameters[0]);
    const int high = is_relu ? lowest + 255 : round_bound(bounds->parameters[1]);
    const std::string name = graph_.value(from->integers).name;
    auto add_bound = [&](int bound) {
      return rewriter_.add_constant(from->type == ElementType::kU8 ? Tensor::scalar(static_cast<uint8_t>(bound))
                                                                   : Tensor::scalar(static_cast<int8_t>(bound)),
                                    name + "_bound");
    };
    const ValueId low_id = add_bound(low), high_id = add_bound(high);
    const ValueId cut =
        rewriter_.insert_before(node, make_node("", "Clip", 13, *maker, {from->integers, low_id, high_id}),
                                type_like(real, from->type), name_like(real));
    const ValueId dequantised = rewriter_.insert_before(node, make_dequantise(*maker, cut, *from),
                                                        rewriter_.type(real), name + "_bounded");
    rewriter_.set_input(node, 0, dequantised);
  }

  // Integers of one scale that become those of another.
  void join(Node& node, const Quantised& from, const Quantised& to) {
    if (is_same(rewriter_, from, to)) return rewriter_.substitute(node.outputs[0], from.integers);
    if (from.type != to.type || from.axis) return;
    Node table = make_node(kMicrosoft, "QLinearLeakyRelu", 1, node,
                           {from.integers, from.scale, get_zero(rewriter_, from), to.scale, get_zero(rewriter_, to)});
    table.attributes["alpha"] = make_float(1);
    rewriter_.replace(node, std::move(table));
  }

  Graph& graph_;
  Rewriter rewriter_;
};

}  // namespace

bool move_qdq(Graph& graph, PassState& state) { return Movement(graph, state).run(); }

}  // namespace sluice::graph::passes
