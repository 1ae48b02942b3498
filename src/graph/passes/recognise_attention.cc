// recognise-attention: softmax(scale * Q * K^T + mask) * V becomes ai.onnx's Attention (opset 23).
//
// The match begins at the product with V and goes back through the softmax, what is added to the scores and their
// scale, to the product of Q and K. Q and K may have been scaled before; all those factors become the attribute
// `scale`. Then each operand is followed further back, through the reshapes and transpositions that part the heads, to
// a tensor [batch, length, heads * size] (or [length, batch, heads * size], as PyTorch's own module has it): if all
// three have one, the node takes those, and what parted the heads goes away. Behind the node the heads are put where
// the graph expects them, which cancels against what brings them together again. Without such tensors it takes the
// operands as they are: four dimensions, or three as a batch of single heads.
//
// A mask that Where sets in (a score or a constant) becomes one that is added. With a constant of -1e9 or less that is
// the same in f32; of others nothing is known, so they stay.
#include "graph/passes/axis_trace.h"
#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

constexpr size_t kMaxSteps = 10;  // back from an operand
constexpr int kMaxScoreSteps = 6;
constexpr int64_t kMaxHeadSize = 1 << 16;  // also of the number of heads
constexpr double kHidden = -1e9;

// The value before a factor, as often as there is one.
struct Scaled {
  ValueId value;
  double scale = 1;
};
std::optional<Scaled> read_factor(const Rewriter& rewriter, const Node& node) {
  const bool is_division = node.op_type == "Div";
  if ((node.op_type != "Mul" && !is_division) || !node.domain.empty() || node.opset < 7) return std::nullopt;
  const auto parts = rewriter.with_scalar(node);
  if (!parts || (is_division && (!parts->is_second || parts->number == 0))) return std::nullopt;
  return Scaled{parts->value, is_division ? 1 / parts->number : parts->number};
}

struct Scores {
  ValueId q = kNoValue, k_transposed = kNoValue;
  ValueId product = kNoValue;  // of both
  double scale = 1;
  std::vector<ValueId> masks;  // to add
  // A mask made of a Where: kept keeps a score where it is true (or false), otherwise `constant` stands there.
  ValueId condition = kNoValue, constant = kNoValue;
  bool keeps_where_true = true;
};

bool broadcasts_to(const Rewriter& rewriter, ValueId mask, const Dims& scores) {
  if (!rewriter.has_rank(mask) || rewriter.dims(mask).size() > scores.size()) return false;
  const Dims& dims = rewriter.dims(mask);
  const size_t shift = scores.size() - dims.size();
  for (size_t i = 0; i < dims.size(); ++i) {
    // The last axis has to fit at run time, for V has as many rows.
    const bool fits = dims[i] == Dim(1) || dims[i] == scores[i + shift] || i + 1 == dims.size();
    if (!fits) return false;
  }
  return true;
}

std::optional<Scores> read_scores(const Rewriter& rewriter, ValueId id, int depth) {
  Node* node = rewriter.producer(id);
  if (node == nullptr || !node->domain.empty() || depth == 0 || !rewriter.has_one_use(id)) return std::nullopt;
  if (node->op_type == "MatMul") {
    if (!rewriter.has_rank(node->inputs[0]) || !rewriter.has_rank(node->inputs[1])) return std::nullopt;
    return Scores{.q = node->inputs[0], .k_transposed = node->inputs[1], .product = id};
  }
  if (const auto factor = read_factor(rewriter, *node)) {
    auto scores = read_scores(rewriter, factor->value, depth - 1);
    if (!scores || !scores->masks.empty() || scores->condition != kNoValue) return std::nullopt;
    scores->scale *= factor->scale;
    return scores;
  }
  if (node->op_type == "Add" && node->opset >= 7) {
    for (const size_t i : {size_t{0}, size_t{1}}) {
      auto scores = read_scores(rewriter, node->inputs[i], depth - 1);
      const ValueId mask = node->inputs[1 - i];
      if (!scores || scores->condition != kNoValue || !rewriter.is_f32(mask)) continue;
      if (!broadcasts_to(rewriter, mask, rewriter.dims(scores->product))) continue;
      scores->masks.push_back(mask);
      return scores;
    }
  }
  if (node->op_type == "Where") {
    for (const size_t i : {size_t{1}, size_t{2}}) {
      const std::optional<double> hidden = rewriter.scalar(node->inputs[3 - i]);
      if (!hidden || *hidden > kHidden) continue;
      auto scores = read_scores(rewriter, node->inputs[i], depth - 1);
      if (!scores || scores->condition != kNoValue) continue;
      if (!broadcasts_to(rewriter, node->inputs[0], rewriter.dims(scores->product))) continue;
      scores->condition = node->inputs[0];
      scores->constant = node->inputs[3 - i];
      scores->keeps_where_true = i == 1;
      return scores;
    }
  }
  return std::nullopt;
}

// What the softmax is taken of; kNoValue if this is no softmax over the last axis that only this product reads.
ValueId find_softmax_input(const Rewriter& rewriter, ValueId weights) {
  // Exporters replace what a row without any key gives, NaN, by zeros, which Attention gives by itself.
  if (const Node* where = rewriter.only_made_by(weights, "Where"); where != nullptr) {
    const Node* question = rewriter.only_made_by(where->inputs[0], "IsNaN");
    if (question == nullptr || rewriter.scalar(where->inputs[1]) != 0.0) return kNoValue;
    if (question->inputs[0] != where->inputs[2] || rewriter.num_uses(where->inputs[2]) != 2) return kNoValue;
    weights = where->inputs[2];
  } else if (!rewriter.has_one_use(weights)) {
    return kNoValue;
  }
  const Node* softmax = rewriter.made_by(weights, "Softmax");
  if (softmax == nullptr || !rewriter.has_rank(weights)) return kNoValue;
  const int rank = rewriter.rank(weights);
  const int64_t axis = softmax->get_int("axis", softmax->opset < 13 ? 1 : -1);
  return axis == -1 || axis == rank - 1 ? softmax->inputs[0] : kNoValue;
}

// Which axis of an operand is what; -1: heads are part of the batch.
struct Roles {
  size_t batch, length, size;
  int heads;
};

// A tensor that has all heads side by side.
struct Packed {
  enum class Form : uint8_t { kBatchFirst, kLengthFirst, kParted };  // [B,S,HD], [S,B,HD], [B,S,H,D]
  ValueId value = kNoValue;
  Form form = Form::kBatchFirst;
  int64_t heads = 0, size = 0;
  double scale = 1;
};

std::optional<Packed> read_base(const AxisTrace& trace, ValueId value, const Roles& roles) {
  using Atoms = AxisTrace::Atoms;
  const auto &base = trace.base(), &axes = trace.axes();
  const Atoms &length = axes[roles.length], &size = axes[roles.size], &batch_axis = axes[roles.batch];
  auto starts_with = [](const Atoms& all, const Atoms& part) {
    return all.size() >= part.size() && std::equal(part.begin(), part.end(), all.begin());
  };
  auto ends_with = [](const Atoms& all, const Atoms& part) {
    return all.size() >= part.size() && std::equal(part.rbegin(), part.rend(), all.rbegin());
  };
  // The heads, given what the base has as its batch and as its rows.
  auto heads_of = [&](const Atoms& batch, const Atoms& row) -> std::optional<Atoms> {
    if (!ends_with(row, size)) return std::nullopt;
    const Atoms heads(row.begin(), row.end() - static_cast<std::ptrdiff_t>(size.size()));
    if (roles.heads >= 0) {
      const bool fits = batch_axis == batch && axes[static_cast<size_t>(roles.heads)] == heads;
      return fits ? std::optional(heads) : std::nullopt;
    }
    const bool fits = starts_with(batch_axis, batch) && ends_with(batch_axis, heads) &&
                      batch_axis.size() == batch.size() + heads.size();
    return fits ? std::optional(heads) : std::nullopt;
  };
  std::optional<Atoms> heads;
  Packed::Form form = Packed::Form::kBatchFirst;
  if (base.size() == 3 && base[1] == length) heads = heads_of(base[0], base[2]);
  if (!heads && base.size() == 3 && base[0] == length) {
    heads = heads_of(base[1], base[2]);
    form = Packed::Form::kLengthFirst;
  }
  if (!heads && base.size() == 4 && base[1] == length && base[3] == size) {
    Atoms row = base[2];
    row.insert(row.end(), size.begin(), size.end());
    heads = heads_of(base[0], row);
    form = Packed::Form::kParted;
  }
  if (!heads) return std::nullopt;
  const Dim count = trace.size_of(*heads), width = trace.size_of(size);
  auto is_sane = [](const Dim& dim) { return dim.is_known() && dim.value() >= 1 && dim.value() <= kMaxHeadSize; };
  if (!is_sane(count) || !is_sane(width)) return std::nullopt;
  return Packed{.value = value, .form = form, .heads = count.value(), .size = width.value()};
}

std::optional<Packed> find_packed(const Rewriter& rewriter, ValueId operand, const Roles& roles) {
  struct Step {
    const Node* node;
    ValueId from;
    double scale;
  };
  std::vector<Step> steps;  // the last one first
  for (ValueId id = operand; steps.size() < kMaxSteps;) {
    const Node* node = rewriter.producer(id);
    if (node == nullptr || !node->domain.empty() || !rewriter.has_rank(id)) break;
    const std::string& op = node->op_type;
    const auto factor = read_factor(rewriter, *node);
    const bool moves = op == "Transpose" || op == "Reshape" || op == "Squeeze" || op == "Unsqueeze" || op == "Flatten";
    if (!factor && !moves) break;
    const ValueId from = factor ? factor->value : node->inputs[0];
    if (!rewriter.has_rank(from)) break;
    steps.push_back({factor ? nullptr : node, from, factor ? factor->scale : 1});
    id = from;
  }
  std::optional<Packed> found;
  for (size_t first = steps.size() + 1; first-- > 0 && !found;) {
    const ValueId base = first == 0 ? operand : steps[first - 1].from;
    if (rewriter.rank(base) < 3 || rewriter.rank(base) > 4) continue;
    AxisTrace trace(rewriter.dims(base));
    double scale = 1;
    bool fits = true;
    for (size_t i = first; i-- > 0 && fits;) {
      scale *= steps[i].scale;
      const ValueId to = i == 0 ? operand : steps[i - 1].from;
      if (steps[i].node == nullptr) fits = rewriter.has_same_dims(steps[i].from, to);
      else if (steps[i].node->op_type == "Transpose") fits = trace.transpose(steps[i].node->get_ints("perm"));
      else fits = trace.reshape(rewriter.dims(to));
    }
    if (!fits) continue;
    found = read_base(trace, base, roles);
    if (found) found->scale = scale;
  }
  return found;
}

class AttentionMatch {
 public:
  AttentionMatch(Rewriter& rewriter, Node& root, const Scores& scores, ValueId v)
      : rewriter_(rewriter), root_(root), scores_(scores), v_(v), rank_(rewriter.rank(v)) {}

  bool run() {
    const ValueId q = scores_.q, k = scores_.k_transposed;
    const auto last = static_cast<size_t>(rank_ - 1);
    if (rewriter_.rank(q) != rank_ || rewriter_.rank(k) != rank_) return false;
    for (size_t i = 0; i + 2 < static_cast<size_t>(rank_); ++i) {
      const Dim& dim = rewriter_.dims(q)[i];
      if (!(dim == rewriter_.dims(k)[i]) || !(dim == rewriter_.dims(v_)[i])) return false;
    }
    if (!(rewriter_.dims(k)[last] == rewriter_.dims(v_)[last - 1])) return false;
    name_ = rewriter_.graph().value(root_.outputs[0]).name;
    const int heads = rank_ == 4 ? 1 : -1;
    const Roles rows{.batch = 0, .length = last - 1, .size = last, .heads = heads};
    const Roles columns{.batch = 0, .length = last, .size = last - 1, .heads = heads};
    const auto pq = find_packed(rewriter_, q, rows), pk = find_packed(rewriter_, k, columns),
               pv = find_packed(rewriter_, v_, rows);
    const bool is_packed = pq && pk && pv && pq->heads == pk->heads && pq->heads == pv->heads &&
                           pq->size == pk->size && pv->scale == 1;
    const std::optional<ValueId> mask = is_packed ? find_mask(pq->heads) : std::nullopt;
    if (mask) take_packed(*pq, *pk, *pv, *mask);
    else return take_as_is();
    return true;
  }

 private:
  ValueId insert(Node made, ValueType type, const char* suffix) {
    return rewriter_.insert_before(root_, std::move(made), std::move(type), name_ + suffix);
  }
  ValueId insert_transpose(ValueId x, std::vector<int64_t> order, const char* suffix) {
    Dims dims;
    for (const int64_t axis : order) dims.push_back(rewriter_.dims(x)[static_cast<size_t>(axis)]);
    return insert(make_node("", "Transpose", 13, root_, {x}, {{"perm", make_ints(std::move(order))}}),
                  ValueType::tensor(ElementType::kF32, std::move(dims)), suffix);
  }
  Node make_reshape(ValueId x, const std::vector<int64_t>& target, const char* suffix) {
    const ValueId shape = rewriter_.add_constant(Tensor::vector<int64_t>(target), name_ + suffix);
    return make_node("", "Reshape", 13, root_, {x, shape});
  }

  // As one that broadcasts to [batch, heads, length, keys]; nullopt if it cannot be seen so.
  std::optional<ValueId> find_mask(int64_t heads) {
    if (rank_ == 4) return make_mask();
    auto fits = [&](ValueId id) { return rewriter_.rank(id) < 3 || rewriter_.dims(id)[0] == Dim(1); };
    for (ValueId& id : scores_.masks) {
      if (fits(id)) continue;
      const Node* reshape = rewriter_.made_by(id, "Reshape");
      const ValueId from = reshape == nullptr ? kNoValue : reshape->inputs[0];
      if (from == kNoValue || !rewriter_.has_rank(from) || rewriter_.rank(from) != 4) return std::nullopt;
      const Dims &dims = rewriter_.dims(from), &to = rewriter_.dims(id);
      if (!(dims[1] == Dim(heads)) || !(dims[2] == to[1]) || !(dims[3] == to[2])) return std::nullopt;
      id = from;
    }
    if (scores_.condition != kNoValue && !fits(scores_.condition)) return std::nullopt;
    return make_mask();
  }

  ValueId make_mask() {
    ValueId mask = kNoValue;
    if (scores_.condition != kNoValue) {
      const ValueId zero = rewriter_.add_constant(Tensor::scalar<float>(0), name_ + "/zero");
      const bool keeps = scores_.keeps_where_true;
      mask = insert(make_node("", "Where", 16, root_,
                              {scores_.condition, keeps ? zero : scores_.constant, keeps ? scores_.constant : zero}),
                    ValueType::tensor(ElementType::kF32, rewriter_.dims(scores_.condition)), "/hidden");
    }
    for (const ValueId id : scores_.masks) {
      if (mask == kNoValue) mask = id;
      else mask = insert(make_node("", "Add", 14, root_, {mask, id}), ValueType::tensor(ElementType::kF32), "/mask");
    }
    return mask;
  }

  Node make_attention(ValueId q, ValueId k, ValueId v, ValueId mask, double scale) {
    std::vector<ValueId> inputs = {q, k, v};
    if (mask != kNoValue) inputs.push_back(mask);
    return make_node("", "Attention", 23, root_, std::move(inputs),
                     {{"scale", make_float(static_cast<float>(scale))}});
  }

  ValueId unpack(const Packed& from, const char* suffix) {
    const Dims dims = rewriter_.dims(from.value);
    if (from.form == Packed::Form::kBatchFirst) return from.value;
    if (from.form == Packed::Form::kLengthFirst) return insert_transpose(from.value, {1, 0, 2}, suffix);
    const int64_t width = from.heads * from.size;
    return insert(make_reshape(from.value, {0, 0, width}, "/shape"),
                  ValueType::tensor(ElementType::kF32, {dims[0], dims[1], width}), suffix);
  }

  void take_packed(const Packed& q, const Packed& k, const Packed& v, ValueId mask) {
    const ValueId inputs[] = {unpack(q, "/q"), unpack(k, "/k"), unpack(v, "/v")};
    Node made = make_attention(inputs[0], inputs[1], inputs[2], mask, scores_.scale * q.scale * k.scale);
    made.attributes["q_num_heads"] = make_int(q.heads);
    made.attributes["kv_num_heads"] = make_int(k.heads);
    const Dims rows = rewriter_.dims(inputs[0]);  // a copy: values are added below
    const ValueId y = insert(std::move(made),
                             ValueType::tensor(ElementType::kF32, {rows[0], rows[1], v.heads * v.size}), "/attention");
    if (rank_ == 4) {  // [B, S, HD] -> [B, S, H, D] -> [B, H, S, D]
      const ValueId parted = insert(make_reshape(y, {0, 0, v.heads, v.size}, "/shape"),
                                    ValueType::tensor(ElementType::kF32, {rows[0], rows[1], v.heads, v.size}), "/parted");
      rewriter_.replace(root_, make_node("", "Transpose", 13, root_, {parted}, {{"perm", make_ints({0, 2, 1, 3})}}));
      return;
    }
    // [B, S, HD] -> [S, B, HD] -> [S, BH, D] -> [BH, S, D]
    const ValueId swapped = insert_transpose(y, {1, 0, 2}, "/swapped");
    const ValueId parted = insert(make_reshape(swapped, {0, -1, v.size}, "/shape"),
                                  ValueType::tensor(ElementType::kF32, {rows[1], rows[0] * Dim(v.heads), v.size}),
                                  "/parted");
    rewriter_.replace(root_, make_node("", "Transpose", 13, root_, {parted}, {{"perm", make_ints({1, 0, 2})}}));
  }

  bool take_as_is() {
    if (rank_ == 3) {  // a batch of single heads
      for (const ValueId id : scores_.masks) {
        if (rewriter_.rank(id) == 3 && !(rewriter_.dims(id)[0] == Dim(1))) return false;
      }
      if (scores_.condition != kNoValue && rewriter_.rank(scores_.condition) == 3 &&
          !(rewriter_.dims(scores_.condition)[0] == Dim(1))) {
        return false;
      }
    }
    const std::vector<int64_t> order = rank_ == 4 ? std::vector<int64_t>{0, 1, 3, 2} : std::vector<int64_t>{0, 2, 1};
    const ValueId mask = make_mask();
    const ValueId k = insert_transpose(scores_.k_transposed, order, "/k");
    Node made = make_attention(scores_.q, k, v_, mask, scores_.scale);
    if (rank_ == 3) {
      made.attributes["q_num_heads"] = make_int(1);
      made.attributes["kv_num_heads"] = make_int(1);
    }
    rewriter_.replace(root_, std::move(made));
    return true;
  }

  Rewriter& rewriter_;
  Node& root_;
  Scores scores_;
  const ValueId v_;
  const int rank_;
  std::string name_;
};

}  // namespace

bool recognise_attention(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node) || node.op_type != "MatMul" || !node.domain.empty()) continue;
    const ValueId weights = node.inputs[0], v = node.inputs[1];
    if (!rewriter.is_f32(weights) || !rewriter.has_rank(v)) continue;
    const int rank = rewriter.rank(v);
    if ((rank != 3 && rank != 4) || rewriter.constant(v) != nullptr) continue;
    const ValueId logits = find_softmax_input(rewriter, weights);
    if (logits == kNoValue) continue;
    const auto scores = read_scores(rewriter, logits, kMaxScoreSteps);
    if (scores) AttentionMatch(rewriter, node, *scores, v).run();
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
