// fuse-pad: a Pad in front of a convolution or a pool becomes its padding.
//
// TensorFlow pads on its own wherever "same" will not do, and so do exports of asymmetric padding. A convolution pads
// with zeros, so the Pad must; an AveragePool does if it counts its padding, which it may as long as it had none of its
// own; a MaxPool leaves padding out, which is the same as zeros if nothing in front can be negative. Only spatial axes
// may be padded, and none by a negative number.
#include <algorithm>
#include <limits>

#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

constexpr int64_t kMaxPad = 1 << 20;

struct Padding {
  std::vector<int64_t> begin, end;  // by spatial axis
  double value = 0;
};

std::optional<Padding> read_padding(const Rewriter& rewriter, const Node& pad) {
  if (pad.get_string("mode", "constant") != "constant" || !rewriter.has_rank(pad.inputs[0])) return std::nullopt;
  const auto rank = static_cast<size_t>(rewriter.rank(pad.inputs[0]));
  std::vector<int64_t> pads = pad.get_ints(pad.opset < 2 ? "paddings" : "pads");
  Padding padding;
  padding.value = pad.get_float("value", 0);
  if (pad.opset >= 11) {
    const Tensor* tensor = pad.inputs.size() > 1 ? rewriter.constant(pad.inputs[1]) : nullptr;
    if (tensor == nullptr || tensor->type() != ElementType::kI64) return std::nullopt;
    pads = to_ints(*tensor);
    padding.value = 0;
    if (pad.inputs.size() > 2 && pad.inputs[2] != kNoValue) {
      const std::optional<double> value = rewriter.scalar(pad.inputs[2]);
      if (!value) return std::nullopt;
      padding.value = *value;
    }
    if (pad.inputs.size() > 3 && pad.inputs[3] != kNoValue) {  // of these axes only
      const Tensor* axes = rewriter.constant(pad.inputs[3]);
      if (axes == nullptr || !is_integer(axes->type()) || 2 * axes->count() != static_cast<int64_t>(pads.size())) {
        return std::nullopt;
      }
      std::vector<int64_t> full(2 * rank, 0);
      const std::vector<int64_t> list = to_ints(*axes);
      for (size_t i = 0; i < list.size(); ++i) {
        const int64_t axis = list[i] < 0 ? list[i] + static_cast<int64_t>(rank) : list[i];
        if (axis < 0 || axis >= static_cast<int64_t>(rank)) return std::nullopt;
        full[static_cast<size_t>(axis)] = pads[i];
        full[static_cast<size_t>(axis) + rank] = pads[i + list.size()];
      }
      pads = std::move(full);
    }
  }
  if (rank < 3 || pads.size() != 2 * rank) return std::nullopt;
  for (const int64_t amount : pads) {
    if (amount < 0 || amount > kMaxPad) return std::nullopt;
  }
  if (pads[0] != 0 || pads[1] != 0 || pads[rank] != 0 || pads[rank + 1] != 0) return std::nullopt;
  padding.begin.assign(pads.begin() + 2, pads.begin() + static_cast<std::ptrdiff_t>(rank));
  padding.end.assign(pads.begin() + static_cast<std::ptrdiff_t>(rank) + 2, pads.end());
  return padding;
}

bool is_never_negative(const Rewriter& rewriter, ValueId id) {
  const Node* node = rewriter.producer(id);
  if (node == nullptr) return false;
  std::string name = node->get_string("activation", "");
  std::vector<float> parameters = node->get_floats("activation_params");
  if (const auto activation = find_activation(rewriter, *node)) {
    name = activation->name;
    parameters = activation->parameters;
  }
  if (name == "Clip") return !parameters.empty() && parameters[0] >= 0;
  return name == "Relu" || name == "Sigmoid" || name == "HardSigmoid";
}

bool takes(const Rewriter& rewriter, const Node& node, const Node& pad, const Padding& padding, bool has_own) {
  const bool is_conv =
      (node.domain.empty() && node.op_type == "Conv") || (node.domain == kMicrosoft && node.op_type == "FusedConv");
  if (is_conv) return padding.value == 0;
  if (!node.domain.empty() || node.get_int("ceil_mode", 0) != 0 || node.outputs.size() != 1) return false;
  if (node.op_type == "AveragePool") {
    return padding.value == 0 && (!has_own || node.get_int("count_include_pad", 0) != 0);
  }
  if (node.op_type != "MaxPool") return false;
  const bool is_lowest = padding.value <= std::numeric_limits<float>::lowest();
  if (!is_lowest && !(padding.value == 0 && is_never_negative(rewriter, pad.inputs[0]))) return false;
  // Not so wide that a window sees nothing else.
  const std::vector<int64_t> kernel = node.get_ints("kernel_shape");
  for (size_t i = 0; i < padding.begin.size() && i < kernel.size(); ++i) {
    if (padding.begin[i] >= kernel[i] || padding.end[i] >= kernel[i]) return false;
  }
  return !has_own;
}

}  // namespace

bool fuse_pad(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node)) continue;
    const Node* pad = rewriter.only_made_by(node.inputs[0], "Pad");
    if (pad == nullptr || pad == &node || !rewriter.is_f32(node.inputs[0])) continue;
    const std::string automatic = node.get_string("auto_pad", "NOTSET");
    if (automatic != "NOTSET" && automatic != "VALID") continue;
    const auto padding = read_padding(rewriter, *pad);
    if (!padding) continue;
    const size_t count = padding->begin.size();
    std::vector<int64_t> pads = node.get_ints("pads");
    if (pads.empty() || automatic == "VALID") pads.assign(2 * count, 0);
    const bool is_sane = pads.size() == 2 * count && std::all_of(pads.begin(), pads.end(), [](int64_t amount) {
                           return amount >= 0 && amount <= kMaxPad;
                         });
    const bool has_own = std::any_of(pads.begin(), pads.end(), [](int64_t amount) { return amount != 0; });
    if (!is_sane || !takes(rewriter, node, *pad, *padding, has_own)) continue;
    for (size_t i = 0; i < count; ++i) {
      pads[i] += padding->begin[i];
      pads[i + count] += padding->end[i];
    }
    Node made = node;
    made.inputs[0] = pad->inputs[0];
    made.attributes["pads"] = make_ints(std::move(pads));
    made.attributes.erase("auto_pad");
    if (node.op_type == "AveragePool") made.attributes["count_include_pad"] = make_int(1);
    rewriter.replace(node, std::move(made));
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
