// fuse-conv-scale: what scales or shifts the channels of a convolution's output goes into its weights and bias.
//
// BatchNormalization (as inference computes it), Mul, Div, Add and Sub by a constant that has one value a channel, or
// one for all, behind Conv or ConvTranspose. Sums that follow each other are folded one after the other. A
// BatchNormalization before a Conv without padding moves behind it in the same way: its scale goes into the weights by
// input channel, its shift into the bias. Weights stay of their size; they are copied only as long as the model's
// constants may grow.
#include <cmath>

#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

// y = scale * x + shift, by channel.
struct Affine {
  std::vector<double> scale, shift;
};

// A value for each of `channels` from a constant that broadcasts along [N, C, spatial...] of that rank, by channel
// only.
std::optional<std::vector<double>> spread_channels(const Tensor& tensor, int64_t channels, int rank) {
  auto values = to_doubles(tensor);
  if (!values || tensor.type() != ElementType::kF32 || tensor.rank() > rank) return std::nullopt;
  if (tensor.count() == 1) return std::vector<double>(static_cast<size_t>(channels), (*values)[0]);
  const int axis = 1 - (rank - tensor.rank());
  if (axis < 0 || tensor.count() != channels || tensor.dim(axis) != channels) return std::nullopt;
  return values;
}

std::optional<Affine> read_batch_norm(const Rewriter& rewriter, const Node& node, int64_t channels) {
  if (node.inputs.size() != 5 || node.get_int("training_mode", 0) != 0 || node.opset < 7) return std::nullopt;
  for (size_t i = 1; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNoValue) return std::nullopt;
  }
  std::vector<double> numbers[4];  // scale, bias, mean, variance
  for (size_t i = 0; i < 4; ++i) {
    const Tensor* tensor = rewriter.f32_constant(node.inputs[i + 1]);
    if (tensor == nullptr || tensor->count() != channels) return std::nullopt;
    numbers[i] = *to_doubles(*tensor);
  }
  const double epsilon = node.get_float("epsilon", 1e-5f);
  Affine affine;
  for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
    const double scale = numbers[0][c] / std::sqrt(numbers[3][c] + epsilon);
    affine.scale.push_back(scale);
    affine.shift.push_back(numbers[1][c] - scale * numbers[2][c]);
  }
  return affine;
}

// What the node does to its operand, and which input that is.
struct Match {
  size_t input;
  Affine affine;
};
std::optional<Match> read_affine(const Rewriter& rewriter, const Node& node, int64_t channels, int rank) {
  if (!node.domain.empty()) return std::nullopt;
  const std::string& op = node.op_type;
  if (op == "BatchNormalization") {
    auto affine = read_batch_norm(rewriter, node, channels);
    return affine ? std::optional(Match{0, std::move(*affine)}) : std::nullopt;
  }
  const bool scales = op == "Mul" || op == "Div", shifts = op == "Add" || op == "Sub";
  if ((!scales && !shifts) || node.inputs.size() != 2 || node.opset < 7) return std::nullopt;
  const size_t constant = rewriter.constant(node.inputs[1]) != nullptr ? 1 : 0;
  const Tensor* tensor = rewriter.f32_constant(node.inputs[constant]);
  if (tensor == nullptr || (op == "Div" && constant == 0)) return std::nullopt;
  const auto values = spread_channels(*tensor, channels, rank);
  if (!values) return std::nullopt;
  Affine affine{std::vector<double>(values->size(), 1), std::vector<double>(values->size(), 0)};
  for (size_t c = 0; c < values->size(); ++c) {
    const double value = (*values)[c];
    if (op == "Mul") affine.scale[c] = value;
    if (op == "Div") affine.scale[c] = 1 / value;
    if (op == "Add") affine.shift[c] = value;
    if (op == "Sub") affine.shift[c] = constant == 1 ? -value : value;
    if (op == "Sub" && constant == 0) affine.scale[c] = -1;
    if (!std::isfinite(affine.scale[c]) || !std::isfinite(affine.shift[c])) return std::nullopt;
  }
  return Match{1 - constant, std::move(affine)};
}

struct Convolution {
  Node* node;
  const Tensor* weights;
  const Tensor* bias;  // null: none
  int64_t channels;    // of the output
  int64_t groups;
  bool is_transposed;
};
std::optional<Convolution> read_convolution(const Rewriter& rewriter, Node* node) {
  if (node == nullptr || !node->domain.empty() || node->inputs.size() < 2) return std::nullopt;
  const bool is_transposed = node->op_type == "ConvTranspose";
  if (!is_transposed && node->op_type != "Conv") return std::nullopt;
  const Tensor* weights = rewriter.f32_constant(node->inputs[1]);
  const bool has_bias = node->inputs.size() > 2 && node->inputs[2] != kNoValue;
  const Tensor* bias = has_bias ? rewriter.f32_constant(node->inputs[2]) : nullptr;
  const int64_t groups = node->get_int("group", 1);
  if (weights == nullptr || weights->rank() < 3 || weights->count() == 0 || (has_bias && bias == nullptr)) {
    return std::nullopt;
  }
  if (groups < 1 || weights->dim(0) % groups != 0) return std::nullopt;
  const int64_t channels = is_transposed ? weights->dim(1) * groups : weights->dim(0);
  if (bias != nullptr && bias->count() != channels) return std::nullopt;
  return Convolution{node, weights, bias, channels, groups, is_transposed};
}

// The convolution with other weights and bias, in place of `node`.
void make_convolution(Rewriter& rewriter, Node& node, const Convolution& from, ValueId x, Tensor weights, Tensor bias) {
  Node made = *from.node;
  const std::string name = rewriter.graph().value(from.node->inputs[1]).name;
  made.inputs.resize(3, kNoValue);
  made.inputs[0] = x;
  made.inputs[1] = rewriter.add_constant(std::move(weights), name + "/scaled");
  made.inputs[2] = rewriter.add_constant(std::move(bias), name + "/shift");
  rewriter.replace(node, std::move(made));
}

// Of weights that nothing else uses the copy takes no more memory than they do.
bool may_copy(Rewriter& rewriter, const Convolution& conv) {
  return rewriter.has_one_use(conv.node->inputs[1]) || rewriter.take_bytes(conv.weights->bytes());
}

bool fold_behind(Rewriter& rewriter, Node& node) {
  for (size_t i = 0; i < node.inputs.size() && i < 2; ++i) {
    const ValueId input = node.inputs[i];
    if (input == kNoValue || !rewriter.has_one_use(input)) continue;
    const auto conv = read_convolution(rewriter, rewriter.producer(input));
    if (!conv) continue;
    const auto match = read_affine(rewriter, node, conv->channels, conv->weights->rank());
    if (!match || match->input != i || !may_copy(rewriter, *conv)) continue;
    Tensor weights = conv->weights->copy();
    const int64_t per_channel = weights.shape().count(2, weights.rank());
    const int64_t block = conv->is_transposed ? per_channel : weights.shape().count(1, weights.rank());
    float* w = weights.data<float>();
    for (int64_t at = 0, b = 0; at < weights.count(); at += block, ++b) {
      // ConvTranspose: [in channels, out channels of a group, kernel...]
      const int64_t per_group = conv->is_transposed ? weights.dim(1) : 1;
      const int64_t group = conv->is_transposed ? b / per_group / (weights.dim(0) / conv->groups) : 0;
      const int64_t channel = conv->is_transposed ? group * per_group + b % per_group : b;
      const double scale = match->affine.scale[static_cast<size_t>(channel)];
      for (int64_t j = 0; j < block; ++j) w[at + j] = static_cast<float>(w[at + j] * scale);
    }
    Tensor bias(ElementType::kF32, Shape{conv->channels});
    for (int64_t c = 0; c < conv->channels; ++c) {
      const auto at = static_cast<size_t>(c);
      const double old = conv->bias != nullptr ? conv->bias->data<float>()[c] : 0;
      bias.data<float>()[c] = static_cast<float>(old * match->affine.scale[at] + match->affine.shift[at]);
    }
    make_convolution(rewriter, node, *conv, conv->node->inputs[0], std::move(weights), std::move(bias));
    return true;
  }
  return false;
}

bool has_padding(const Node& node) {
  const std::vector<int64_t> pads = node.get_ints("pads");
  const std::string automatic = node.get_string("auto_pad", "NOTSET");
  return (automatic != "NOTSET" && automatic != "VALID") ||
         std::any_of(pads.begin(), pads.end(), [](int64_t pad) { return pad != 0; });
}

// The scale of the input: at the edges of a padded image the shift would be missing, so that there must be none.
bool fold_before(Rewriter& rewriter, Node& node) {
  const auto conv = read_convolution(rewriter, &node);
  if (!conv || conv->is_transposed || has_padding(node)) return false;
  Node* norm = rewriter.only_made_by(node.inputs[0], "BatchNormalization");
  if (norm == nullptr) return false;
  const Tensor& from = *conv->weights;
  const int64_t per_group = from.dim(1);
  const auto affine = read_batch_norm(rewriter, *norm, per_group * conv->groups);
  if (!affine || !may_copy(rewriter, *conv)) return false;
  Tensor weights = from.copy(), bias(ElementType::kF32, Shape{conv->channels});
  const int64_t kernel = from.shape().count(2, from.rank());
  float* w = weights.data<float>();
  for (int64_t out = 0; out < conv->channels; ++out) {
    double shift = conv->bias != nullptr ? conv->bias->data<float>()[out] : 0;
    for (int64_t in = 0; in < per_group; ++in) {
      const auto channel = static_cast<size_t>(out / (conv->channels / conv->groups) * per_group + in);
      float* row = w + (out * per_group + in) * kernel;
      for (int64_t k = 0; k < kernel; ++k) {
        shift += row[k] * affine->shift[channel];
        row[k] = static_cast<float>(row[k] * affine->scale[channel]);
      }
    }
    bias.data<float>()[out] = static_cast<float>(shift);
  }
  make_convolution(rewriter, node, *conv, norm->inputs[0], std::move(weights), std::move(bias));
  return true;
}

}  // namespace

bool fuse_conv_scale(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node) || !node.domain.empty()) continue;
    if (!fold_behind(rewriter, node)) fold_before(rewriter, node);
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
