// merge-common: of nodes with the same operator, inputs and attributes the first remains and the others' outputs become
// its (common subexpressions), and of small constants that are equal one remains. In the order of the nodes one walk
// finds all: what two nodes read has been made one before they are compared.
#include <algorithm>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <unordered_map>

#include "graph/op.h"
#include "graph/passes.h"

namespace sluice::graph::passes {
namespace {

constexpr int64_t kMaxConstantBytes = 4096;

bool is_equal(const Tensor& a, const Tensor& b) {
  if (a.type() != b.type() || !(a.shape() == b.shape())) return false;
  if (a.type() == ElementType::kString) {
    const auto x = a.values<std::string>(), y = b.values<std::string>();
    return std::equal(x.begin(), x.end(), y.begin(), y.end());
  }
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
  if (a.op != b.op || a.opset != b.opset || a.inputs != b.inputs) return false;
  if (a.attributes.size() != b.attributes.size()) return false;
  if (a.outputs.size() != b.outputs.size()) return false;
  for (size_t i = 0; i < a.outputs.size(); ++i) {  // what one leaves out it may not compute
    if ((a.outputs[i] == kNoValue) != (b.outputs[i] == kNoValue)) return false;
  }
  for (auto x = a.attributes.begin(), y = b.attributes.begin(); x != a.attributes.end(); ++x, ++y) {
    if (x->first != y->first || !is_equal(x->second, y->second)) return false;
  }
  return true;
}

// Of nodes and constants that are equal, the same number; of others hardly ever.
class Hash {
 public:
  template <typename T>
  Hash& add(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return add_bytes(&value, sizeof value);
  }
  template <typename T>
  Hash& add_all(const std::vector<T>& values) {
    return add(values.size()).add_bytes(values.data(), values.size() * sizeof(T));
  }
  Hash& add_text(std::string_view text) { return add(text.size()).add_bytes(text.data(), text.size()); }
  Hash& add_tensor(const Tensor& tensor) {
    add(tensor.type());
    for (const int64_t dim : tensor.shape()) add(dim);
    if (tensor.type() != ElementType::kString) return add_bytes(tensor.raw(), static_cast<size_t>(tensor.bytes()));
    for (const std::string& text : tensor.values<std::string>()) add_text(text);
    return *this;
  }
  size_t get() const { return state_; }

 private:
  Hash& add_bytes(const void* data, size_t size) {
    const size_t next = size == 0 ? 0 : std::hash<std::string_view>()({static_cast<const char*>(data), size});
    state_ = (state_ ^ next) * 0x9e3779b97f4a7c15u;
    state_ ^= state_ >> 29;
    return *this;
  }

  size_t state_ = 0;
};

size_t hash(const Node& node) {
  Hash hash;
  hash.add(node.op).add(node.opset).add_all(node.inputs).add(node.outputs.size());
  for (const auto& [name, attribute] : node.attributes) {
    hash.add_text(name).add(attribute.kind).add(attribute.f).add(attribute.i).add_text(attribute.s);
    hash.add_all(attribute.floats).add_all(attribute.ints);
    for (const std::string& text : attribute.strings) hash.add_text(text);
    for (const Tensor& tensor : attribute.tensors) hash.add_tensor(tensor);
  }
  return hash.get();
}

// The first of those that are equal to it: itself if there was none before.
template <typename IsEqual>
size_t find_first(std::unordered_multimap<size_t, size_t>& known, size_t hash, size_t index, const IsEqual& is_equal) {
  for (auto [at, end] = known.equal_range(hash); at != end; ++at) {
    if (is_equal(at->second)) return at->second;
  }
  known.emplace(hash, index);
  return index;
}

bool merge_constants(const Graph& graph, Replacements& replacements) {
  std::unordered_multimap<size_t, size_t> known;
  const std::vector<int> uses = count_uses(graph);
  const std::vector<bool> is_input = mark_inputs(graph);
  auto find = [&](size_t id) { return find_constant(graph, is_input, static_cast<ValueId>(id)); };
  bool has_changed = false;
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const Tensor* tensor = uses[id] == 0 ? nullptr : find(id);
    if (tensor == nullptr || tensor->type() == ElementType::kString || tensor->bytes() > kMaxConstantBytes) continue;
    const size_t first = find_first(known, Hash().add_tensor(*tensor).get(), id,
                                    [&](size_t other) { return is_equal(*tensor, *find(other)); });
    if (first == id) continue;
    replacements.add(static_cast<ValueId>(id), static_cast<ValueId>(first));
    has_changed = true;
  }
  return has_changed;
}

}  // namespace

bool merge_common(Graph& graph, PassState&) {
  Replacements replacements(graph);
  bool has_changed = merge_constants(graph, replacements);
  std::unordered_multimap<size_t, size_t> known;
  std::vector<bool> is_dead(graph.nodes.size(), false);
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    Node& node = graph.nodes[n];
    replacements.apply(node);
    if ((node.op->flags & OpInfo::kImpure) != 0 || has_body(node)) continue;
    const size_t first =
        find_first(known, hash(node), n, [&](size_t other) { return is_equal(node, graph.nodes[other]); });
    if (first == n) continue;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (node.outputs[i] != kNoValue) replacements.add(node.outputs[i], graph.nodes[first].outputs[i]);
    }
    is_dead[n] = has_changed = true;
  }
  replacements.apply_to_outputs(graph);
  remove_nodes(graph, is_dead);
  return has_changed;
}

}  // namespace sluice::graph::passes
