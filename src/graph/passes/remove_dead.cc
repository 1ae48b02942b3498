// remove-dead: nodes none of whose outputs anybody uses, captures that a body does not use, and the memory of constants
// that are left over.
#include "graph/passes.h"

namespace sluice::graph::passes {

bool remove_dead(Graph& graph, PassState&) {
  std::vector<int> uses = count_uses(graph);
  std::vector<bool> is_dead(graph.nodes.size(), false);
  bool has_changed = false;
  for (size_t n = graph.nodes.size(); n-- > 0;) {
    Node& node = graph.nodes[n];
    bool is_used = false;
    for (const ValueId id : node.outputs) is_used |= id != kNoValue && uses[static_cast<size_t>(id)] > 0;
    if (is_used) continue;
    for_each_use(node, [&](ValueId id) { --uses[static_cast<size_t>(id)]; });
    is_dead[n] = has_changed = true;
  }
  remove_nodes(graph, is_dead);
  has_changed |= std::erase_if(graph.captures, [&](const Capture& capture) {
                   return uses[static_cast<size_t>(capture.inner)] == 0;
                 }) > 0;
  const std::vector<bool> is_input = mark_inputs(graph);
  for (size_t id = 0; id < graph.values.size(); ++id) {
    if (uses[id] > 0 || !graph.values[id].constant || is_input[id]) continue;
    graph.values[id].constant.reset();
    has_changed = true;
  }
  return has_changed;
}

}  // namespace sluice::graph::passes
