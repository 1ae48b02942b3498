// merge-common: of nodes with the same operator, inputs and attributes the first remains and the others' outputs become
// its (common subexpressions), and of small constants that are equal one remains. In the order of the nodes one walk
// finds all: what two nodes read has been made one before they are compared.
#include <cstring>
#include <map>
#include <tuple>

#include "graph/op.h"
#include "graph/passes.h"

namespace sluice::graph::passes {
namespace {

constexpr int64_t kMaxConstantBytes = 4096;

bool is_equal(const Tensor& a, const Tensor& b) {
  if (a.type() != b.type() || !(a.shape() == b.shape())) return false;
  if (a.type() == ElementType::kString) return std::equal(a.values<std::string>().begin(), a.values<std::string>().end(), b.values<std::string>().begin());
  return a.count() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

bool is_equal(const Attribute& a, const Attribute& b) {
  if (a.kind != b.kind || !a.graphs.empty() || !b.graphs.empty() || a.kind == Attribute::Kind::kType) return false;
  if (a.tensors.size() != b.tensors.size()) return false;
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    if (!is_equal(a.tensors[i], b.tensors[i])) return false;
  }
  // By bits, so that NaN is like NaN and -0 is not like 0.
  auto same_floats = [](const std::vector<float>& x, const std::vector<float>& y) {
    return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0);
  };
  return std::memcmp(&a.f, &b.f, sizeof a.f) == 0 && a.i == b.i && a.s == b.s && same_floats(a.floats, b.floats) &&
         a.ints == b.ints && a.strings == b.strings;
}

bool is_equal(const Node& a, const Node& b) {
  if (a.op != b.op || a.opset != b.opset || a.inputs != b.inputs || a.attributes.size() != b.attributes.size()) return false;
  if (a.outputs.size() != b.outputs.size()) return false;
  for (size_t i = 0; i < a.outputs.size(); ++i) {  // what one leaves out it may not compute
    if ((a.outputs[i] == kNoValue) != (b.outputs[i] == kNoValue)) return false;
  }
  for (auto x = a.attributes.begin(), y = b.attributes.begin(); x != a.attributes.end(); ++x, ++y) {
    if (x->first != y->first || !is_equal(x->second, y->second)) return false;
  }
  return true;
}

bool merge_constants(Graph& graph) {
  std::multimap<std::tuple<ElementType, int64_t, std::string>, ValueId> known;
  bool has_changed = false;
  const std::vector<int> uses = count_uses(graph);
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const Tensor* tensor = find_constant(graph, static_cast<ValueId>(id));
    if (tensor == nullptr || uses[id] == 0 || tensor->type() == ElementType::kString || tensor->bytes() > kMaxConstantBytes) continue;
    std::string bytes(static_cast<const char*>(tensor->raw()), static_cast<size_t>(tensor->bytes()));
    const auto key = std::make_tuple(tensor->type(), tensor->count(), std::move(bytes));
    bool is_merged = false;
    for (auto [at, end] = known.equal_range(key); at != end && !is_merged; ++at) {
      if (!(find_constant(graph, at->second)->shape() == tensor->shape())) continue;
      replace_uses(graph, static_cast<ValueId>(id), at->second);
      is_merged = has_changed = true;
    }
    if (!is_merged) known.emplace(key, static_cast<ValueId>(id));
  }
  return has_changed;
}

}  // namespace

bool merge_common(Graph& graph) {
  bool has_changed = merge_constants(graph);
  std::multimap<std::tuple<const OpInfo*, ValueId, size_t>, size_t> first;  // by what is quick to compare
  std::vector<bool> is_dead(graph.nodes.size(), false);
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    if ((node.op->flags & OpInfo::kImpure) != 0) continue;
    const auto key = std::make_tuple(node.op, node.inputs.empty() ? kNoValue : node.inputs[0], node.inputs.size());
    for (auto [at, end] = first.equal_range(key); at != end; ++at) {
      const Node& other = graph.nodes[at->second];
      if (!is_equal(node, other)) continue;
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        if (node.outputs[i] != kNoValue) replace_uses(graph, node.outputs[i], other.outputs[i]);
      }
      is_dead[n] = has_changed = true;
      break;
    }
    if (!is_dead[n]) first.emplace(key, n);
  }
  remove_nodes(graph, is_dead);
  return has_changed;
}

}  // namespace sluice::graph::passes
