// fuse-conv-activation: a convolution, the addition of a tensor of its output's shape and an activation become one
// FusedConv (com.microsoft): y = activation(conv + bias + Z).
//
// In this order only: what is added after the activation stays. The shapes have to be the same whatever their symbols
// are, for FusedConv does not broadcast. Where both terms of an addition are convolutions, the later one takes the
// other's result.
#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

constexpr size_t kZ = 3;

// A convolution in f32 that nothing else reads, without an activation.
Node* find_open_conv(const Rewriter& rewriter, ValueId id) {
  if (id == kNoValue || !rewriter.is_f32(id) || !rewriter.has_one_use(id)) return nullptr;
  Node* node = rewriter.made_by(id, "Conv");
  if (node == nullptr) node = rewriter.made_by(id, "FusedConv", kMicrosoft);
  return node != nullptr && node->get_string("activation", "").empty() ? node : nullptr;
}

Node fused(const Node& conv) { return make_node(kMicrosoft, "FusedConv", 1, conv, conv.inputs, conv.attributes); }

bool add(Rewriter& rewriter, Node& node) {
  if (node.op_type != "Add" || node.opset < 7 || node.inputs.size() != 2) return false;
  Node* convs[2];
  for (size_t i = 0; i < 2; ++i) {
    convs[i] = find_open_conv(rewriter, node.inputs[i]);
    const bool has_z = convs[i] != nullptr && convs[i]->inputs.size() > kZ && convs[i]->inputs[kZ] != kNoValue;
    if (has_z) convs[i] = nullptr;
  }
  if (node.inputs[0] == node.inputs[1] || !rewriter.has_same_dims(node.inputs[0], node.inputs[1])) return false;
  const size_t i = convs[1] != nullptr && (convs[0] == nullptr || convs[0] < convs[1]) ? 1 : 0;
  if (convs[i] == nullptr || rewriter.constant(node.inputs[1 - i]) != nullptr) return false;
  Node made = fused(*convs[i]);
  made.inputs.resize(4, kNoValue);
  made.inputs[kZ] = node.inputs[1 - i];
  rewriter.replace(node, std::move(made));
  return true;
}

void activate(Rewriter& rewriter, Node& node) {
  const std::optional<Activation> activation = find_activation(rewriter, node);
  if (!activation) return;
  Node* conv = find_open_conv(rewriter, node.inputs[0]);
  if (conv == nullptr) return;
  Node made = fused(*conv);
  set_activation(made, *activation);
  rewriter.replace(node, std::move(made));
}

}  // namespace

bool fuse_conv_activation(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node) || !node.domain.empty()) continue;
    if (!add(rewriter, node)) activate(rewriter, node);
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
