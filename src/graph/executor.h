// Runs a graph.
//
// An Executor belongs to one thread at a time; several of them may share a Model, and with it packed weights. For each
// combination of input shapes it compiles the model once (program.h) and keeps the latest programs; what a program
// leaves to it, and with Options::compiles off everything, it interprets node by node, a tensor's memory going back to
// a pool after its last use.
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
#include "graph/program.h"

namespace sluice::graph {

class Executor {
 public:
  struct Options {
    int num_threads = 0;           // 0: the available cores
    size_t max_bytes = SIZE_MAX;   // of tensors alive at once; more is an Error
    uint64_t seed = 0;             // of operators that draw random numbers and have no seed
    bool takes_any_shape = false;  // inputs may have other shapes than the model declares, if its operators take them
    bool compiles = true;          // else every operator's own code runs: the reference
    Tuning tuning = Tuning::kNone;  // when compiling
    bool profiles = false;         // keep the time of each step
    Precision precision = Precision::kF32;
    std::vector<std::string> disabled_passes;  // when compiling
  };

  explicit Executor(std::shared_ptr<const Model> model) : Executor(std::move(model), Options{}) {}
  Executor(std::shared_ptr<const Model> model, Options options);
  Executor(std::shared_ptr<Shared> shared, Options options);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  const Model& model() const { return *model_; }
  // One value for each of graph.inputs; none: the default, where there is one. Gives one for each of graph.outputs.
  // Throws Error naming the input or the node.
  std::vector<Value> run(std::span<const Value> inputs);
  // Whether run() would take these, as far as types and shapes go.
  bool takes(std::span<const Value> inputs) const;
  // What run() would run for these inputs, of which only types and shapes count. Valid until the next call. Throws
  // Error.
  const Program& compile(std::span<const Value> inputs);
  // Of the last run with Options::profiles: the time of each of its program's steps.
  const std::vector<double>& step_seconds() const { return step_seconds_; }
  // The most bytes of tensors that were alive at once.
  size_t peak_bytes() const { return buffers_->peak_bytes(); }

 private:
  struct Plan;  // of a graph or a body: what dies when
  struct Frame;
  struct Compiled;
  static constexpr size_t kMaxCompiled = 16;

  const Plan& plan_of(const Graph& graph);
  void check_inputs(std::span<const Value> inputs) const;
  void check_profiles(std::span<const Value> inputs) const;
  std::vector<Value> run_frame(const Graph& graph, Frame& frame);
  void run_node(const Graph& graph, const Node& node, std::vector<Value>& values);
  Compiled& find_compiled(std::span<const Value> inputs);
  std::vector<Value> run_compiled(std::span<const Value> inputs);

  const std::shared_ptr<Shared> shared_;
  const std::shared_ptr<const Model> model_;
  const Options options_;
  const std::shared_ptr<BufferPool> buffers_;
  ThreadPool pool_;
  Random random_;
  std::map<const Graph*, std::unique_ptr<Plan>> plans_;
  std::vector<std::unique_ptr<Compiled>> compiled_;
  BufferRef arena_;
  std::vector<double> step_seconds_;
  uint64_t num_runs_ = 0;
  int depth_ = 0;
};

// One node with these inputs, outside any graph: for constants. Throws Error, also if `buffers` limits what it may
// take.
std::vector<Value> evaluate(const Node& node, std::span<const Value* const> inputs, ThreadPool& pool,
                            BufferPool* buffers = nullptr);

}  // namespace sluice::graph
