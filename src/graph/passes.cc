#include "graph/passes.h"

#include <algorithm>

#include "base/error.h"
#include "graph/infer.h"

namespace sluice::graph {
namespace {

constexpr Pass kPasses[] = {
    {"fold-constants", "nodes whose inputs are all known are computed once, now", passes::fold_constants},
    {"remove-identities", "nodes that hand on what they get go away", passes::remove_identities},
    {"merge-common", "of nodes that compute the same thing one remains", passes::merge_common},
    {"remove-dead", "nodes and constants that nobody uses go away", passes::remove_dead},
};
constexpr int kMaxRounds = 8;  // what one pass leaves may be work for an earlier one

const Pass& find_pass(const std::string& name) {
  std::string names;
  for (const Pass& pass : kPasses) {
    if (name == pass.name) return pass;
    names += (names.empty() ? "" : ", ") + std::string(pass.name);
  }
  fail(Code::kInvalidArgument, "there is no pass '{}', only {}", name, names);
}

void for_each_body(Graph& graph, const std::function<void(Graph&)>& body) {
  for (Node& node : graph.nodes) {
    for (auto& [name, attribute] : node.attributes) {
      for (auto& inner : attribute.graphs) {
        for_each_body(*inner, body);
        body(*inner);
      }
    }
  }
}

}  // namespace

std::span<const Pass> list_passes() { return kPasses; }

void optimise(Model& model, const OptimiseOptions& options) {
  for (const std::string& name : options.disabled) find_pass(name);
  const Pass* last = options.stop_after.empty() ? nullptr : &find_pass(options.stop_after);
  for (int round = 0; round < kMaxRounds; ++round) {
    bool has_changed = false;
    for (const Pass& pass : kPasses) {
      const bool is_disabled = std::find(options.disabled.begin(), options.disabled.end(), pass.name) != options.disabled.end();
      if (!is_disabled) {
        bool changed = false;
        for_each_body(model.graph, [&](Graph& body) { changed |= pass.run(body); });
        changed |= pass.run(model.graph);
        if (changed) {
          std::vector<std::string> problems;
          infer_types(model.graph, problems);
          if (!problems.empty()) fail(Code::kInternal, "pass {} left a graph that does not fit together: {}", pass.name, problems[0]);
        }
        has_changed |= changed;
      }
      if (&pass == last) break;
    }
    if (!has_changed || last != nullptr) return;
  }
}

void replace_uses(Graph& graph, ValueId from, ValueId to) {
  for (Node& node : graph.nodes) {
    std::replace(node.inputs.begin(), node.inputs.end(), from, to);
    for (auto& [name, attribute] : node.attributes) {
      for (auto& inner : attribute.graphs) {
        for (Capture& capture : inner->captures) {
          if (capture.outer == from) capture.outer = to;
        }
      }
    }
  }
  std::replace(graph.outputs.begin(), graph.outputs.end(), from, to);
}

std::vector<int> count_uses(const Graph& graph) {
  std::vector<int> uses(graph.values.size(), 0);
  for (const Node& node : graph.nodes) {
    for_each_use(node, [&](ValueId id) { ++uses[static_cast<size_t>(id)]; });
  }
  for (const ValueId id : graph.outputs) ++uses[static_cast<size_t>(id)];
  return uses;
}

std::vector<int> find_makers(const Graph& graph) {
  std::vector<int> makers(graph.values.size(), -1);
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    for (const ValueId id : graph.nodes[n].outputs) {
      if (id != kNoValue) makers[static_cast<size_t>(id)] = static_cast<int>(n);
    }
  }
  return makers;
}

bool is_input(const Graph& graph, ValueId id) {
  return std::find(graph.inputs.begin(), graph.inputs.end(), id) != graph.inputs.end();
}

bool is_output(const Graph& graph, ValueId id) {
  return std::find(graph.outputs.begin(), graph.outputs.end(), id) != graph.outputs.end();
}

const Tensor* find_constant(const Graph& graph, ValueId id) {
  if (id == kNoValue || is_input(graph, id)) return nullptr;
  const std::optional<Value>& constant = graph.value(id).constant;
  return constant && constant->kind == Value::Kind::kTensor ? &constant->tensor : nullptr;
}

void remove_nodes(Graph& graph, const std::vector<bool>& is_dead) {
  size_t kept = 0;
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    if (is_dead[n]) continue;
    if (kept != n) graph.nodes[kept] = std::move(graph.nodes[n]);
    ++kept;
  }
  graph.nodes.resize(kept);
}

}  // namespace sluice::graph
