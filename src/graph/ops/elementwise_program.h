// What a sluice.Elementwise node computes: a straight line of steps, each a function of at most three numbers, done for
// every element of a result.
//
// The attribute `program` has a string for each step: the name of the ONNX operator and what it is applied to. x0, x1,
// ... are the node's inputs, t0, t1, ... what the steps before made, and =0.5 is a number. The last step gives the
// output: {"Mul x0 x1", "Add t0 =1", "Where x2 t1 =0"}. Operators with attributes take these as numbers ("Clip t0 =0
// =6", "LeakyRelu x0 =0.1"). Comparisons give 1 or 0; inputs may be bool. The result has the shape that all inputs
// broadcast to.
//
// Elements are computed in blocks small enough that what a step makes is still in the first cache when the next one
// reads it; operands that broadcast are spread within a block, never as a whole. Any thread may run a program.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "graph/ir.h"

namespace sluice::graph::ops {

class ElementwiseProgram {
 public:
  static constexpr size_t kMaxSteps = 64, kMaxInputs = 64;
  static constexpr int64_t kBlock = 1024;  // elements

  struct Operand {
    const void* data = nullptr;
    Shape shape;
    ElementType type = ElementType::kF32;  // kF32, kBool or kBF16
  };

  // Throws Error for a program that is none.
  static ElementwiseProgram parse(const Node& node);
  // Bytes that run() needs as scratch, whatever the shapes are.
  size_t scratch_bytes(int num_threads) const;
  // `out` is of out_type, kF32 or kBF16 (rounded once, at the end). REQUIRES: as many inputs as the node has, of shapes
  // that broadcast to `shape`; `scratch` aligned to 64.
  void run(ThreadPool& pool, std::span<const Operand> inputs, const Shape& shape, void* out, ElementType out_type,
           void* scratch) const;

  // How many numbers the operator of that name takes in a program; 0 if it cannot stand in one.
  static int num_operands(std::string_view op);

  // A function over a block.
  using Function = void (*)(float* to, const float* a, const float* b, const float* c, int64_t count);

 private:
  struct Step {
    Function function;
    int operands[3] = {0, 0, 0};  // blocks: inputs, then numbers, then registers
    int to = 0;
  };
  size_t num_inputs_ = 0;
  std::vector<float> numbers_;
  std::vector<Step> steps_;
  int num_registers_ = 0;
};

}  // namespace sluice::graph::ops
