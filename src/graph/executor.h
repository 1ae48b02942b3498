// Runs a graph.
//
// An Executor belongs to one thread at a time; several of them may share a Model. It runs node after node; a tensor's
// memory goes back to the pool after its last use and is there for the next one, so that later runs ask for no memory.
// Input types, ranks and sizes are checked before anything runs; a symbol that two inputs share ("batch") has to be the
// same in both.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "graph/ir.h"
#include "graph/op.h"

namespace sluice::graph {

class Executor {
 public:
  struct Options {
    int num_threads = 0;           // 0: the available cores
    size_t max_bytes = SIZE_MAX;   // of tensors alive at once; more is an Error
    uint64_t seed = 0;             // of operators that draw random numbers and have no seed
    bool takes_any_shape = false;  // inputs may have other shapes than the model declares, if its operators take them
  };

  explicit Executor(std::shared_ptr<const Model> model) : Executor(std::move(model), Options{}) {}
  Executor(std::shared_ptr<const Model> model, Options options);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  const Model& model() const { return *model_; }
  // One value for each of graph.inputs; none: the default, where there is one. Gives one for each of graph.outputs.
  // Throws Error naming the input or the node.
  std::vector<Value> run(std::span<const Value> inputs);
  // Whether run() would take these, as far as types and shapes go.
  bool takes(std::span<const Value> inputs) const;
  // The most bytes of tensors that were alive at once.
  size_t peak_bytes() const { return buffers_->peak_bytes(); }

 private:
  struct Plan;  // of a graph or a body: what dies when
  struct Frame;

  const Plan& plan_of(const Graph& graph);
  void check_inputs(std::span<const Value> inputs) const;
  std::vector<Value> run_frame(const Graph& graph, Frame& frame);
  void run_node(const Graph& graph, const Node& node, Frame& frame);

  const std::shared_ptr<const Model> model_;
  const Options options_;
  const std::shared_ptr<BufferPool> buffers_;
  ThreadPool pool_;
  Random random_;
  std::map<const Graph*, std::unique_ptr<Plan>> plans_;
  int depth_ = 0;
};

// One node with these inputs, outside any graph: for constants. Throws Error, also if `buffers` limits what it may
// take.
std::vector<Value> evaluate(const Node& node, std::span<const Value* const> inputs, ThreadPool& pool,
                            BufferPool* buffers = nullptr);

}  // namespace sluice::graph
