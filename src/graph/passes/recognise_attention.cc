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
#include <algorithm>

#include "graph/passes/axis_trace.h"
#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

constexpr size_t kMaxSteps = 10;  // back from an operand
constexpr int kMaxScoreSteps = 8;
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
  // Scores [batch * heads, length, keys] that were seen as [batch, heads, length, keys] while masks were added: heads.
  std::optional<Dim> parted;
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
  if (node->op_type == "Reshape" && rewriter.has_rank(id) && rewriter.has_rank(node->inputs[0])) {
    // [batch * heads, length, keys] to four dimensions and, after the masks, back.
    const ValueId from = node->inputs[0];
    auto scores = read_scores(rewriter, from, depth - 1);
    if (!scores || rewriter.rank(id) + rewriter.rank(from) != 7) return std::nullopt;
    const Dims& three = rewriter.dims(rewriter.rank(id) == 3 ? id : from);
    const Dims& four = rewriter.dims(rewriter.rank(id) == 3 ? from : id);
    const bool fits = three[1] == four[2] && three[2] == four[3] && three[0] == four[0] * four[1];
    const bool is_first = !scores->parted && scores->masks.empty() && scores->condition == kNoValue;
    if (!fits || (rewriter.rank(id) == 4 && !is_first)) return std::nullopt;
    if (rewriter.rank(id) == 3 && !(scores->parted && *scores->parted == four[1])) return std::nullopt;
    scores->parted = four[1];
    return scores;
  }
  if (node->op_type == "Add" && node->opset >= 7) {
    for (const size_t i : {size_t{0}, size_t{1}}) {
      auto scores = read_scores(rewriter, node->inputs[i], depth - 1);
      const ValueId mask = node->inputs[1 - i];
      if (!scores || scores->condition != kNoValue || !rewriter.is_f32(mask)) continue;
      if (!broadcasts_to(rewriter, mask, rewriter.dims(node->inputs[i]))) continue;
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
      if (!broadcasts_to(rewriter, node->inputs[0], rewriter.dims(node->inputs[i]))) continue;
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
  int64_t part = -1;  // of several such tensors that lie side by side in the last axis; -1: there is one
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
  const int selected = trace.selected().atom;
  auto heads_of = [&](const Atoms& batch, const Atoms& all) -> std::optional<Atoms> {
    const bool begins_with_part = selected >= 0 && !all.empty() && all[0] == selected;
    if (selected >= 0 && !begins_with_part) return std::nullopt;
    const Atoms row(all.begin() + (begins_with_part ? 1 : 0), all.end());
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
  if (!heads && selected < 0 && base.size() == 4 && base[1] == length && base[3] == size) {
    Atoms row = base[2];
    row.insert(row.end(), size.begin(), size.end());
    heads = heads_of(base[0], row);
    form = Packed::Form::kParted;
  }
  if (!heads) return std::nullopt;
  const Dim count = trace.size_of(*heads), width = trace.size_of(size);
  auto is_sane = [](const Dim& dim) { return dim.is_known() && dim.value() >= 1 && dim.value() <= kMaxHeadSize; };
  if (!is_sane(count) || !is_sane(width)) return std::nullopt;
  return Packed{.value = value,
                .form = form,
                .heads = count.value(),
                .size = width.value(),
                .scale = 1,
                .part = selected >= 0 ? trace.selected().index : -1};
}

// One element of an axis: a Gather of one index, or an output of a Split into single ones.
struct Selection {
  size_t axis;
  int64_t index;
  bool keeps_axis;
};
std::optional<Selection> read_selection(const Rewriter& rewriter, const Node& node, ValueId output) {
  const bool is_gather = node.op_type == "Gather", is_split = node.op_type == "Split";
  if (!is_gather && !is_split) return std::nullopt;
  if (!rewriter.has_rank(node.inputs[0])) return std::nullopt;
  int64_t axis = node.get_int("axis", 0);
  if (axis < 0) axis += rewriter.rank(node.inputs[0]);
  if (axis < 0 || axis >= rewriter.rank(node.inputs[0])) return std::nullopt;
  if (is_split) {
    const auto at = std::find(node.outputs.begin(), node.outputs.end(), output) - node.outputs.begin();
    const auto count = rewriter.known_dim(node.inputs[0], static_cast<int>(axis));
    if (count != static_cast<int64_t>(node.outputs.size())) return std::nullopt;
    for (const ValueId id : node.outputs) {
      if (id == kNoValue || rewriter.known_dim(id, static_cast<int>(axis)) != 1) return std::nullopt;
    }
    return Selection{static_cast<size_t>(axis), at, true};
  }
  const Tensor* index = rewriter.constant(node.inputs[1]);
  const auto count = rewriter.known_dim(node.inputs[0], static_cast<int>(axis));
  if (index == nullptr || index->rank() != 0 || !is_integer(index->type()) || !count) return std::nullopt;
  int64_t at = to_ints(*index)[0];
  if (at < 0) at += *count;
  return at < 0 || at >= *count ? std::nullopt : std::optional(Selection{static_cast<size_t>(axis), at, false});
}

std::optional<Packed> find_packed(const Rewriter& rewriter, ValueId operand, const Roles& roles) {
  struct Step {
    const Node* node;
    ValueId from;
    double scale;
    std::optional<Selection> selection;
  };
  std::vector<Step> steps;  // the last one first
  for (ValueId id = operand; steps.size() < kMaxSteps;) {
    const Node* node = rewriter.producer(id);
    if (node == nullptr || !node->domain.empty() || !rewriter.has_rank(id)) break;
    const std::string& op = node->op_type;
    const auto factor = read_factor(rewriter, *node);
    const bool moves = op == "Transpose" || op == "Reshape" || op == "Squeeze" || op == "Unsqueeze" || op == "Flatten";
    const auto selection = read_selection(rewriter, *node, id);
    if (!factor && !moves && !selection) break;
    const ValueId from = factor ? factor->value : node->inputs[0];
    if (!rewriter.has_rank(from)) break;
    steps.push_back({factor ? nullptr : node, from, factor ? factor->scale : 1, selection});
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
      const auto& selection = steps[i].selection;
      if (steps[i].node == nullptr)
        fits = rewriter.has_same_dims(steps[i].from, to);
      else if (selection)
        fits = trace.select(selection->axis, selection->index, selection->keeps_axis);
      else if (steps[i].node->op_type == "Transpose")
        fits = trace.transpose(steps[i].node->get_ints("perm"));
      else
        fits = trace.reshape(rewriter.dims(to));
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
    const bool is_packed =
        pq && pk && pv && pq->heads == pk->heads && pq->heads == pv->heads && pq->size == pk->size && pv->scale == 1;
    const std::optional<ValueId> mask = is_packed ? find_mask(pq->heads) : std::nullopt;
    if (mask)
      take_packed(*pq, *pk, *pv, *mask);
    else
      return take_as_is();
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
    if (scores_.parted) return *scores_.parted == Dim(heads) ? std::optional(make_mask()) : std::nullopt;
    for (ValueId& id : scores_.masks) {
      id = part_batch(id, heads, 4);
      if (id == kNoValue) return std::nullopt;
    }
    if (scores_.condition != kNoValue) {
      scores_.condition = part_batch(scores_.condition, heads, 4);
      if (scores_.condition == kNoValue) return std::nullopt;
    }
    return make_mask();
  }

  // What a mask [batch * heads, length, keys] was before it was reshaped to that: as it broadcasts to [batch, heads,
  // length, keys]. kNoValue if it was no such thing.
  ValueId part_batch(ValueId id, int64_t heads, int depth) {
    if (rewriter_.rank(id) < 3 || rewriter_.dims(id)[0] == Dim(1)) return id;
    const Node* node = rewriter_.producer(id);
    if (node == nullptr || !node->domain.empty() || depth == 0) return kNoValue;
    if (node->op_type == "Reshape") {
      const ValueId from = node->inputs[0];
      if (!rewriter_.has_rank(from) || rewriter_.rank(from) != 4) return kNoValue;
      const Dims &dims = rewriter_.dims(from), &to = rewriter_.dims(id);
      const bool fits = dims[1] == Dim(heads) && dims[2] == to[1] && dims[3] == to[2];
      if (!fits) return kNoValue;
      const Node* expand = rewriter_.made_by(from, "Expand");  // which broadcasting does anyway
      const bool was_four =
          expand != nullptr && rewriter_.has_rank(expand->inputs[0]) && rewriter_.rank(expand->inputs[0]) == 4;
      return was_four ? expand->inputs[0] : from;
    }
    const bool maps = node->op_type == "Where" || node->op_type == "Mul" || node->op_type == "Sub" ||
                      node->op_type == "Add" || node->op_type == "Cast" || node->op_type == "Not";
    if (!maps) return kNoValue;
    Node made = *node;
    made.outputs.clear();
    Dims dims;
    int num_tensors = 0;
    for (ValueId& input : made.inputs) {
      if (input == kNoValue) return kNoValue;
      if (const Tensor* tensor = rewriter_.constant(input); tensor != nullptr && tensor->count() == 1) continue;
      if (!rewriter_.has_rank(input) || rewriter_.rank(input) != 3 || ++num_tensors > 1) return kNoValue;
      input = part_batch(input, heads, depth - 1);
      if (input == kNoValue) return kNoValue;
      dims = rewriter_.dims(input);
    }
    if (num_tensors == 0) return kNoValue;
    return insert(std::move(made), ValueType::tensor(rewriter_.type(id).element, std::move(dims)), "/mask");
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
      if (mask == kNoValue)
        mask = id;
      else
        mask = insert(make_node("", "Add", 14, root_, {mask, id}), ValueType::tensor(ElementType::kF32), "/mask");
    }
    return mask;
  }

  Node make_attention(ValueId q, ValueId k, ValueId v, ValueId mask, double scale) {
    std::vector<ValueId> inputs = {q, k, v};
    if (mask != kNoValue) inputs.push_back(mask);
    return make_node("", "Attention", 23, root_, std::move(inputs), {{"scale", make_float(static_cast<float>(scale))}});
  }

  ValueId unpack(const Packed& from, const char* suffix) {
    const Dims dims = rewriter_.dims(from.value);
    const int64_t width = from.heads * from.size;
    ValueId value = from.value;
    if (from.part >= 0) {
      auto constant = [&](int64_t number) {
        return rewriter_.add_constant(Tensor::vector<int64_t>({number}), name_ + "/part");
      };
      const ValueId begin = constant(from.part * width), end = constant((from.part + 1) * width), axis = constant(2);
      value = insert(make_node("", "Slice", 13, root_, {value, begin, end, axis}),
                     ValueType::tensor(ElementType::kF32, {dims[0], dims[1], width}), suffix);
    }
    if (from.form == Packed::Form::kBatchFirst) return value;
    if (from.form == Packed::Form::kLengthFirst) return insert_transpose(value, {1, 0, 2}, suffix);
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
      const ValueId parted =
          insert(make_reshape(y, {0, 0, v.heads, v.size}, "/shape"),
                 ValueType::tensor(ElementType::kF32, {rows[0], rows[1], v.heads, v.size}), "/parted");
      rewriter_.replace(root_, make_node("", "Transpose", 13, root_, {parted}, {{"perm", make_ints({0, 2, 1, 3})}}));
      return;
    }
    // [B, S, HD] -> [S, B, HD] -> [S, BH, D] -> [BH, S, D]
    const ValueId swapped = insert_transpose(y, {1, 0, 2}, "/swapped");
    const ValueId parted =
        insert(make_reshape(swapped, {0, -1, v.size}, "/shape"),
               ValueType::tensor(ElementType::kF32, {rows[1], rows[0] * Dim(v.heads), v.size}), "/parted");
    rewriter_.replace(root_, make_node("", "Transpose", 13, root_, {parted}, {{"perm", make_ints({1, 0, 2})}}));
  }

  // Grouped queries: [B, K, S, D] before each of its heads was repeated for n heads of queries, as [B, K, n, S, D]
  // reshaped to [B, K * n, S, D]. kNoValue if that is not what happened. Attention takes the few heads.
  ValueId find_repeated(ValueId id) const {
    if (rank_ != 4) return kNoValue;
    const Node* merge = rewriter_.made_by(id, "Reshape");
    const Node* expand = merge == nullptr ? nullptr : rewriter_.made_by(merge->inputs[0], "Expand");
    if (expand == nullptr || !rewriter_.has_rank(merge->inputs[0])) return kNoValue;
    const Node* part = rewriter_.producer(expand->inputs[0]);
    const bool is_view =
        part != nullptr && part->domain.empty() && (part->op_type == "Unsqueeze" || part->op_type == "Reshape");
    if (!is_view || !rewriter_.has_rank(part->inputs[0]) || !rewriter_.has_rank(expand->inputs[0])) return kNoValue;
    const Dims &few = rewriter_.dims(part->inputs[0]), &one = rewriter_.dims(expand->inputs[0]),
               &many = rewriter_.dims(merge->inputs[0]), &all = rewriter_.dims(id);
    if (few.size() != 4 || !(one == Dims{few[0], few[1], 1, few[2], few[3]}) || many.size() != 5) return kNoValue;
    const bool fits = many == Dims{few[0], few[1], many[2], few[2], few[3]} && many[2].is_known() &&
                      few[1].is_known() && all == Dims{few[0], few[1] * many[2], few[2], few[3]};
    return fits ? part->inputs[0] : kNoValue;
  }

  bool take_as_is() {
    if (rank_ == 3) {  // a batch of single heads
      if (scores_.parted) return false;
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
    const Node* transpose = rewriter_.made_by(scores_.k_transposed, "Transpose");
    const bool is_ours = transpose != nullptr && transpose->get_ints("perm") == order;
    ValueId k = is_ours ? transpose->inputs[0] : insert_transpose(scores_.k_transposed, order, "/k"), v = v_;
    const ValueId few_keys = find_repeated(k), few_values = find_repeated(v);
    if (few_keys != kNoValue && few_values != kNoValue &&
        rewriter_.dims(few_keys)[1] == rewriter_.dims(few_values)[1]) {
      k = few_keys;
      v = few_values;
    }
    Node made = make_attention(scores_.q, k, v, mask, scores_.scale);
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
