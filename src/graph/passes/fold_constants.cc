// fold-constants: a node whose inputs are all known is run now, and its outputs become constants.
//
// Not for random numbers, not for bodies, and not where a small input makes a large output (a constant that is spread
// to megabytes is cheaper to make again than to read and to store). A size that only the computation tells is bounded
// by the memory that it may use; and all that a model's constants grow by together has a limit, for a row of nodes each
// of which adds a little may be long.
#include <algorithm>
#include <functional>
#include <new>
#include <stdexcept>

#include "base/error.h"
#include "graph/executor.h"
#include "graph/passes.h"

namespace sluice::graph::passes {
namespace {

constexpr int64_t kMaxGrowth = 1 << 20;           // bytes that outputs may have more than inputs
constexpr size_t kMaxScratch = size_t{64} << 20;  // bytes that a node may use beside four times its inputs

// As far as types tell it; INT64_MAX if it is more than that.
int64_t least_bytes(const ValueType& type) {
  if (!type.is_tensor() || !type.dims) return 0;
  int64_t bytes = get_info(type.element).bytes;
  for (const Dim& dim : *type.dims) {
    if (!dim.is_known() || dim.value() <= 0) return 0;
    if (__builtin_mul_overflow(bytes, dim.value(), &bytes)) return INT64_MAX;
  }
  return bytes;
}

int64_t bytes_of(const Value& value) {
  int64_t bytes = 0;
  switch (value.kind) {
    case Value::Kind::kNone: break;
    case Value::Kind::kTensor: return passes::bytes_of(value.tensor);
    case Value::Kind::kSequence:
      for (const Value& element : *value.sequence) bytes += bytes_of(element);
      break;
    case Value::Kind::kMap: return passes::bytes_of(value.map->keys) + passes::bytes_of(value.map->values);
  }
  return bytes;
}

bool is_within(const Tensor& tensor, const Tensor& whole) {
  const auto *begin = static_cast<const uint8_t*>(whole.raw()), *at = static_cast<const uint8_t*>(tensor.raw());
  return begin != nullptr && std::greater_equal<>()(at, begin) && std::less<>()(at, begin + whole.bytes());
}

// What a node makes of known inputs.
class Fold {
 public:
  Fold(const Node& node, const Graph& graph) : node_(node) {
    for (const ValueId id : node.inputs) {
      const Value* value = id == kNoValue ? nullptr : &*graph.value(id).constant;
      const bool is_new = value != nullptr && std::find(inputs_.begin(), inputs_.end(), value) == inputs_.end();
      if (is_new) input_bytes_ += bytes_of(*value);
      inputs_.push_back(value);
    }
  }

  // Empty if it fails or makes too much: then it is computed when it is reached, if it is.
  std::vector<Value> run(ThreadPool& pool, int64_t max_bytes) {
    const size_t scratch = 4 * static_cast<size_t>(input_bytes_) + kMaxScratch;
    std::vector<Value> outputs;
    try {
      const auto buffers = std::make_shared<BufferPool>(scratch);
      outputs = evaluate(node_, inputs_, pool, buffers.get());
      int64_t all_bytes = 0;
      for (size_t i = 0; i < node_.outputs.size(); ++i) {
        if (node_.outputs[i] == kNoValue) continue;
        all_bytes += bytes_of(outputs[i]);
        if (!is_shared(outputs[i])) new_bytes_ += bytes_of(outputs[i]);
      }
      if (all_bytes - input_bytes_ > kMaxGrowth || new_bytes_ > max_bytes) return {};
      for (Value& output : outputs) {  // so that the memory that was needed on the way goes
        if (output.kind == Value::Kind::kTensor && !is_shared(output)) output = Value(output.tensor.copy());
      }
    } catch (const Error&) {
      return {};
    } catch (const std::bad_alloc&) {
      return {};
    } catch (const std::length_error&) {
      return {};
    }
    return outputs;
  }

  int64_t input_bytes() const { return input_bytes_; }
  int64_t new_bytes() const { return new_bytes_; }

 private:
  // An input seen in another shape takes no memory of its own.
  bool is_shared(const Value& value) const {
    return value.kind == Value::Kind::kTensor &&
           std::any_of(inputs_.begin(), inputs_.end(), [&](const Value* input) {
             return input != nullptr && input->kind == Value::Kind::kTensor && is_within(value.tensor, input->tensor);
           });
  }

  const Node& node_;
  std::vector<const Value*> inputs_;
  int64_t input_bytes_ = 0, new_bytes_ = 0;
};

}  // namespace

int64_t bytes_of(const Tensor& tensor) {
  if (tensor.is_null()) return 0;
  int64_t bytes = tensor.bytes();
  if (tensor.type() == ElementType::kString) {
    for (const std::string& text : tensor.values<std::string>()) bytes += static_cast<int64_t>(text.size());
  }
  return bytes;
}

bool fold_constants(Graph& graph, PassState& state) {
  ThreadPool pool(1);
  std::vector<bool> is_dead(graph.nodes.size(), false);
  std::vector<bool> is_known = mark_inputs(graph);
  for (size_t id = 0; id < graph.values.size(); ++id) is_known[id] = graph.values[id].constant && !is_known[id];
  bool has_changed = false;
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    const bool can_fold = (node.op->flags & OpInfo::kImpure) == 0 && !has_body(node) &&
                          !is_quantised_constant(graph, node) &&
                          std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) {
                            return id == kNoValue || is_known[static_cast<size_t>(id)];
                          });
    if (!can_fold) continue;
    Fold fold(node, graph);
    const bool is_large = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
      return id != kNoValue && least_bytes(graph.value(id).type) - fold.input_bytes() > kMaxGrowth;
    });
    if (is_large) continue;
    std::vector<Value> outputs = fold.run(pool, state.bytes_left);
    if (outputs.empty()) continue;
    state.bytes_left -= fold.new_bytes();
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const ValueId id = node.outputs[i];
      if (id == kNoValue) continue;
      GraphValue& value = graph.value(id);
      if (outputs[i].kind == Value::Kind::kTensor) {
        value.type = ValueType::tensor(outputs[i].tensor.type(), to_dims(outputs[i].tensor.shape()));
      }
      value.constant = std::move(outputs[i]);
      is_known[static_cast<size_t>(id)] = true;
    }
    is_dead[n] = has_changed = true;
  }
  remove_nodes(graph, is_dead);
  return has_changed;
}

}  // namespace sluice::graph::passes
