// A model compiled for inputs of certain shapes: kernels in order, and where each tensor lies.
//
// compile() specialises a copy of the model (all shape arithmetic is folded away), asks for the ways to compute each
// node, chooses one each so that few tensors have to be reordered, packs constants, and plans one block of memory by
// lifetimes. Reshapes, and concatenations along the outermost axis, cost nothing: their tensors lie in each other's
// memory. What depends on data (shapes that no one can know before, control flow) stays with the interpreter that the
// executor hands in, between kernels. run() then allocates only the tensors that it gives away.
//
// A Program belongs to one executor. What executors of one model share is in Shared.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "graph/ir.h"
#include "graph/kernels/kernel.h"
#include "graph/memory_plan.h"
#include "graph/precision.h"
#include "graph/timings.h"

namespace sluice::graph {

// How kernels are chosen: by rank; by the times that are known; by times that are measured where they are not known.
enum class Tuning : uint8_t { kNone, kKnown, kMeasure };

// The sizes that a plan is for: of each input that has one, [rank].
struct Profile {
  std::map<std::string, Shape> min, opt, max;
};

// What a model's executors have in common.
struct Shared {
  std::shared_ptr<const Model> model;  // optimised
  PackedWeights weights;
  Timings timings;
  std::vector<Profile> profiles;  // inputs have to fit one of them; none: whatever the model takes
};

struct CompileOptions {
  Tuning tuning = Tuning::kNone;
  Precision precision = Precision::kF32;
  std::vector<std::string> disabled_passes;
};

// One step of a program, for reports.
struct StepInfo {
  std::string name;    // of the node; "reorder NAME"
  std::string op;      // "FusedConv"
  std::string kernel;  // "conv nhwc"; "interpreted"
  std::string outputs; // "float32 1x64x56x56 nhwc"
  double flops = 0;    // multiplications and additions of products; 0: not counted
};

class Program {
 public:
  // Runs one node that has no kernel: reads and writes `values` by ValueId. Gives the error the node's name.
  using Interpret = std::function<void(const Graph& graph, const Node& node, std::vector<Value>& values)>;

  // `inputs` as run() will get them, of which only types and shapes count; `pool` is what run() will be given, and the
  // thread's KernelThreads. Throws Error.
  static std::unique_ptr<Program> compile(Shared& shared, std::span<const Value> inputs,
                                          const CompileOptions& options, std::shared_ptr<BufferPool> buffers,
                                          ThreadPool& pool);
  ~Program();

  // One value for each input of the graph. `arena` has at least arena_bytes(), aligned to 64. `seconds`, if not null,
  // gets the time of each step.
  std::vector<Value> run(std::span<const Value> inputs, void* arena, ThreadPool& pool, const Interpret& interpret,
                         std::vector<double>* seconds = nullptr);

  int64_t arena_bytes() const;
  int64_t bytes_without_reuse() const;
  const std::vector<StepInfo>& steps() const;
  const Graph& graph() const;

 private:
  friend class ProgramBuilder;
  Program();
  struct Impl;
  struct Forget;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::graph
