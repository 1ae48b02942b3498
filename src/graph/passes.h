// Rewrites of a graph that keep what it computes: an ordered list, each pass a file in passes/.
//
// A pass takes a graph with inferred types and may leave types stale; optimise() infers them anew. It does not look
// into bodies, for optimise() brings these to it too. Passes know no shapes but what infer() says, and nothing that the
// file merely declares, so that they hold for every size that the model takes. Any pass can be left out
// (--disable-pass) and looked at (`sluice dump --after`).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "graph/ir.h"

namespace sluice::graph {

// What the runs of passes over one model share.
struct PassState {
  int64_t bytes_left = 0;  // that constants which passes make may still take
};

// What one pass fuses another may no longer recognise: passes of a later stage run when those of the earlier ones find
// nothing more to do, and then all of them together.
enum class PassStage : uint8_t {
  kSimplify,     // what remains says the same with fewer, more telling nodes
  kRecognise,    // large patterns, which need that everything around them is simple
  kFuse,         // products and convolutions take in what stands around them
  kElementwise,  // what is left over, by the element
};

struct Pass {
  const char* name;     // "fold-constants"
  const char* meaning;  // a line for --help and docs
  bool (*run)(Graph& graph, PassState& state);  // true if it changed something
  PassStage stage = PassStage::kSimplify;
};

// In the order in which they run, stage by stage.
std::span<const Pass> list_passes();
// Throws Error for a name that is no pass.
const Pass& find_pass(const std::string& name);

struct OptimiseOptions {
  std::vector<std::string> disabled;  // names of passes that do not run
  std::string stop_after;             // the last pass that runs; empty: all of them
};

// Runs the passes over the graph and the bodies in it; what shares its bodies changes too (copy_model() does not).
// Throws Error for a name that is no pass, and for a node of which a pass shows that it fails whenever the graph runs.
void optimise(Model& model, const OptimiseOptions& options = {});

// What passes need. A use is an input of a node, a capture of a body, or an output of the graph.

// What is used in place of what, gathered along the nodes in their order.
class Replacements {
 public:
  explicit Replacements(const Graph& graph) : instead_(graph.values.size(), kNoValue) {}
  // REQUIRES: `to` is not replaced itself.
  void add(ValueId from, ValueId to) { instead_[static_cast<size_t>(from)] = to; }
  // The value that stands for this one.
  ValueId find(ValueId id) const {
    return id == kNoValue || instead_[static_cast<size_t>(id)] == kNoValue ? id : instead_[static_cast<size_t>(id)];
  }
  // In what a node or its bodies read; in what the graph gives.
  void apply(Node& node) const;
  void apply_to_outputs(Graph& graph) const;

 private:
  std::vector<ValueId> instead_;
};

// How often each value is used.
std::vector<int> count_uses(const Graph& graph);
// Calls body(id) for each value that the node reads, its bodies' captures included.
template <typename Body>
void for_each_use(const Node& node, Body&& body) {
  for (const ValueId id : node.inputs) {
    if (id != kNoValue) body(id);
  }
  for (const auto& [name, attribute] : node.attributes) {
    for (const auto& graph : attribute.graphs) {
      for (const Capture& capture : graph->captures) body(capture.outer);
    }
  }
}
bool has_body(const Node& node);
// By value: whether it is an input of the graph.
std::vector<bool> mark_inputs(const Graph& graph);
// Null if the value is not known before run time: a constant, but not the default of an input.
const Tensor* find_constant(const Graph& graph, const std::vector<bool>& is_input, ValueId id);
// Takes the marked nodes out.
void remove_nodes(Graph& graph, const std::vector<bool>& is_dead);

namespace passes {
bool move_qdq(Graph& graph, PassState& state);
bool fuse_qdq(Graph& graph, PassState& state);
bool fuse_integer(Graph& graph, PassState& state);
bool fold_dequantised(Graph& graph, PassState& state);
// A DequantizeLinear of 8 bits: left to fuse_qdq and fold_dequantised where its inputs are constants.
bool is_quantised_constant(const Graph& graph, const Node& node);
bool fold_constants(Graph& graph, PassState& state);
bool remove_identities(Graph& graph, PassState& state);
bool merge_common(Graph& graph, PassState& state);
bool remove_dead(Graph& graph, PassState& state);
bool simplify_shapes(Graph& graph, PassState& state);
bool move_transposes(Graph& graph, PassState& state);
bool recognise_activation(Graph& graph, PassState& state);
bool recognise_norm(Graph& graph, PassState& state);
bool recognise_attention(Graph& graph, PassState& state);
bool fuse_pad(Graph& graph, PassState& state);
bool fuse_conv_scale(Graph& graph, PassState& state);
bool fuse_conv_activation(Graph& graph, PassState& state);
bool fuse_matmul(Graph& graph, PassState& state);
bool merge_horizontal(Graph& graph, PassState& state);
bool fuse_elementwise(Graph& graph, PassState& state);
// Of a tensor, with what its strings hold.
int64_t bytes_of(const Tensor& tensor);
}  // namespace passes

}  // namespace sluice::graph
