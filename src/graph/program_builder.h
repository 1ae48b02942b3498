// How a Program comes about; program.h tells the idea. Included by program*.cc only.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "graph/program.h"

namespace sluice::graph {

// A place of a tensor at run time.
struct Slot {
  enum class Kind : uint8_t {
    kArena,        // in the block
    kInput,        // what the caller gave
    kConstant,
    kOutput,       // made for each run and given away
    kInterpreted,  // made by the interpreter
  };
  Kind kind = Kind::kArena;
  TensorInfo info;
  ValueId value = kNoValue;
  Tensor constant;
  int index = -1;      // of the input
  int base = -1;       // the slot in whose memory it lies, from byte `offset` on; -1: in its own
  int64_t offset = 0;
  int64_t bytes = 0;
  int first = 0, last = 0;  // steps; of a slot with a base they count for that
  int64_t arena_offset = 0;
};

struct Step {
  const Node* node = nullptr;      // of a reorder or a copy: the node that wants it
  std::unique_ptr<Kernel> kernel;  // null: interpreted
  std::vector<int> inputs, outputs;  // slots; -1: left out
  int in_place = -1;
  bool joins_in_place = false;     // inputs may lie in the output's memory, one after the other
  int64_t scratch_offset = 0;
  std::vector<const void*> input_data;
  std::vector<void*> output_data;
  std::vector<ValueId> dead;       // interpreted values that nobody reads later
};

struct Program::Impl {
  Model model;
  std::vector<Slot> slots;
  std::vector<Step> steps;
  std::vector<StepInfo> infos;
  std::vector<int> input_indices;                     // of the graph's inputs among those that run() is given
  std::vector<int> output_slots;                      // of the graph's outputs; -1: `values` has it
  std::vector<std::pair<ValueId, int>> visible;       // values that the interpreter reads, and where they lie
  std::shared_ptr<BufferPool> buffers;
  MemoryPlan memory;
  // The state of a run.
  std::vector<void*> data;                            // by slot
  std::vector<Tensor> outputs;                        // by slot; of kOutput
  std::vector<Value> values;
  void* bound_arena = nullptr;

  int root_of(int slot) const {
    while (slots[static_cast<size_t>(slot)].base >= 0) slot = slots[static_cast<size_t>(slot)].base;
    return slot;
  }
};

// One node and the ways to compute it.
struct NodePlan {
  bool is_static = false;  // shapes are known: a kernel computes it
  bool is_alias = false;   // the outputs lie in the first input's memory, there:
  std::vector<int64_t> alias_offsets;  // of each output, in bytes
  std::vector<TensorInfo> inputs, outputs;
  std::vector<const Tensor*> constants;
  std::vector<KernelChoice> choices;
  std::vector<double> microseconds;           // of each choice
  std::vector<std::unique_ptr<Kernel>> made;  // of each choice; null: not yet
  int chosen = -1;                            // -1: the operator's own code, in plain order
  Layout input_layout(size_t i) const {
    return chosen < 0 ? Layout::kPlain : choices[static_cast<size_t>(chosen)].inputs[i];
  }
  Layout output_layout(size_t i) const {
    return chosen < 0 ? Layout::kPlain : choices[static_cast<size_t>(chosen)].outputs[i];
  }
};

// What is known of a value: nullopt if not everything, or if it is no tensor of numbers.
std::optional<TensorInfo> info_of(const Graph& graph, ValueId id);

// Fills `choices` and `chosen` of all plans: program_choose.cc.
void choose_kernels(const Graph& graph, std::vector<NodePlan>& plans, Shared& shared, const CompileOptions& options,
                    ThreadPool& pool);

// A copy of the model for inputs of these types and shapes, with nothing left that depends on them alone.
Model specialise(const Model& model, std::span<const Value> inputs, const CompileOptions& options,
                 PackedWeights& weights);

// Multiplications and additions of products; 0 for operators that have none.
double count_flops(const Node& node, const NodePlan& plan);

}  // namespace sluice::graph
