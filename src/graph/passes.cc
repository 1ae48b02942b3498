#include "graph/passes.h"

#include <algorithm>
#include <functional>
#include <set>

#include "base/error.h"
#include "graph/infer.h"

namespace sluice::graph {
namespace {

constexpr Pass kPasses[] = {
    {"fold-constants", "nodes whose inputs are all known are computed once, now", passes::fold_constants},
    {"remove-identities", "nodes that hand on what they get go away", passes::remove_identities},
    {"simplify-shapes", "computations of shapes become constants, reshapes of reshapes one", passes::simplify_shapes},
    {"merge-common", "of nodes that compute the same thing one remains", passes::merge_common},
    {"recognise-activation", "activations that are spelled out become the operator they are",
     passes::recognise_activation},
    {"recognise-norm", "layer and RMS normalisations that are spelled out become one operator",
     passes::recognise_norm},
    {"recognise-attention", "softmax(Q * K + mask) * V becomes Attention", passes::recognise_attention,
     PassStage::kRecognise},
    {"move-transposes", "pairs of transpositions cancel, also across what stands between them",
     passes::move_transposes},
    {"fuse-pad", "what pads in front of a convolution or a pool becomes its padding", passes::fuse_pad},
    {"fuse-conv-scale", "scales and shifts of a convolution's channels go into its weights", passes::fuse_conv_scale},
    {"move-qdq", "what only moves elements is done on the integers of a quantised model", passes::move_qdq},
    {"fuse-integer", "products of integers take in their scales", passes::fuse_integer, PassStage::kFuse},
    {"fuse-qdq", "products between dequantisation and quantisation are computed on integers", passes::fuse_qdq,
     PassStage::kFuse},
    {"fold-dequantized", "quantised weights that are used as floats are dequantised once", passes::fold_dequantised,
     PassStage::kFuse},
    {"fuse-conv-activation", "a convolution takes in an addition and an activation behind it",
     passes::fuse_conv_activation, PassStage::kFuse},
    {"fuse-matmul", "a product of matrices takes in transpositions, scale, bias, an addition and an activation",
     passes::fuse_matmul, PassStage::kFuse},
    {"merge-horizontal", "narrow products of one tensor with several matrices become one", passes::merge_horizontal,
     PassStage::kFuse},
    {"fuse-elementwise", "what is left of operators that work by the element is computed in one go",
     passes::fuse_elementwise, PassStage::kElementwise},
    {"remove-dead", "nodes and constants that nobody uses go away", passes::remove_dead},
};
constexpr int kMaxRounds = 8;  // what one pass leaves may be work for an earlier one
constexpr int64_t kMaxNewBytes = int64_t{64} << 20;  // of constants, beside as many as the model has already

void for_each_body(Graph& graph, const std::function<void(Graph&)>& body) {
  for (Node& node : graph.nodes) {
    for (auto& [name, attribute] : node.attributes) {
      for (auto& inner : attribute.graphs) {
        for_each_body(*inner, body);
        body(*inner);
      }
    }
  }
}

int64_t bytes_of_constants(const Graph& graph) {
  int64_t bytes = 0;
  for (const GraphValue& value : graph.values) {
    const bool is_tensor = value.constant && value.constant->kind == Value::Kind::kTensor;
    if (is_tensor) bytes += passes::bytes_of(value.constant->tensor);
  }
  return bytes;
}

std::set<std::string> describe_nodes(const Graph& graph, const std::vector<std::pair<size_t, std::string>>& problems) {
  std::set<std::string> nodes;
  for (const auto& [node, text] : problems) nodes.insert(graph.nodes[node].describe());
  return nodes;
}

void run_passes(Model& model, const OptimiseOptions& options) {
  auto is_disabled = [&](const Pass& pass) {
    return std::find(options.disabled.begin(), options.disabled.end(), pass.name) != options.disabled.end();
  };
  // Bodies see the constants around them as their own; those count once.
  PassState state{.bytes_left = kMaxNewBytes + bytes_of_constants(model.graph)};
  const std::set<std::string> failing = describe_nodes(model.graph, infer_proven_types(model.graph));
  PassStage stage = PassStage::kSimplify;
  for (int round = 0; round < kMaxRounds;) {
    bool has_changed = false;
    for (const Pass& pass : kPasses) {
      if (pass.stage > stage) continue;
      bool changed = false;
      if (!is_disabled(pass)) {
        for_each_body(model.graph, [&](Graph& body) { changed |= pass.run(body, state); });
        changed |= pass.run(model.graph, state);
      }
      has_changed |= changed;
      if (changed) {
        for (const auto& [node, problem] : infer_proven_types(model.graph)) {
          if (!failing.contains(model.graph.nodes[node].describe())) fail(Code::kInvalidArgument, "{}", problem);
        }
      }
      if (pass.name == options.stop_after) return;
    }
    if (has_changed && ++round < kMaxRounds) continue;
    if (stage == PassStage::kElementwise) return;
    stage = static_cast<PassStage>(static_cast<int>(stage) + 1);
    round = 0;
  }
}

}  // namespace

std::span<const Pass> list_passes() { return kPasses; }

const Pass& find_pass(const std::string& name) {
  std::string names;
  for (const Pass& pass : kPasses) {
    if (name == pass.name) return pass;
    names += (names.empty() ? "" : ", ") + std::string(pass.name);
  }
  fail(Code::kInvalidArgument, "there is no pass '{}', only {}", name, names);
}

void optimise(Model& model, const OptimiseOptions& options) {
  for (const std::string& name : options.disabled) find_pass(name);
  if (!options.stop_after.empty()) find_pass(options.stop_after);
  run_passes(model, options);
  std::vector<std::string> ignored;  // what the file declares may be wrong where nothing relies on it
  infer_types(model.graph, ignored, Declarations::kFill);
}

void Replacements::apply(Node& node) const {
  for (ValueId& id : node.inputs) id = find(id);
  for (auto& [name, attribute] : node.attributes) {
    for (auto& inner : attribute.graphs) {
      for (Capture& capture : inner->captures) capture.outer = find(capture.outer);
    }
  }
}

void Replacements::apply_to_outputs(Graph& graph) const {
  for (ValueId& id : graph.outputs) id = find(id);
}

std::vector<int> count_uses(const Graph& graph) {
  std::vector<int> uses(graph.values.size(), 0);
  for (const Node& node : graph.nodes) {
    for_each_use(node, [&](ValueId id) { ++uses[static_cast<size_t>(id)]; });
  }
  for (const ValueId id : graph.outputs) ++uses[static_cast<size_t>(id)];
  return uses;
}

bool has_body(const Node& node) {
  return std::any_of(node.attributes.begin(), node.attributes.end(),
                     [](const auto& entry) { return !entry.second.graphs.empty(); });
}

std::vector<bool> mark_inputs(const Graph& graph) {
  std::vector<bool> is_input(graph.values.size(), false);
  for (const ValueId id : graph.inputs) is_input[static_cast<size_t>(id)] = true;
  return is_input;
}

const Tensor* find_constant(const Graph& graph, const std::vector<bool>& is_input, ValueId id) {
  if (id == kNoValue || is_input[static_cast<size_t>(id)]) return nullptr;
  const std::optional<Value>& constant = graph.value(id).constant;
  return constant && constant->kind == Value::Kind::kTensor ? &constant->tensor : nullptr;
}

void remove_nodes(Graph& graph, const std::vector<bool>& is_dead) {
  size_t kept = 0;
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    if (is_dead[n]) continue;
    if (kept != n) graph.nodes[kept] = std::move(graph.nodes[n]);
    ++kept;
  }
  graph.nodes.resize(kept);
}

}  // namespace sluice::graph
