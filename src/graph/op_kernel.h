// An operator's own run() as a kernel: for nodes of known shapes that have nothing faster, and for operators that do
// not care about the order of their elements, in whatever order these are.
//
// An elementwise operator on images with channels last is the same operator on tensors whose channel axis stands last.
// The shapes that run() sees are permuted accordingly; it never learns of the layout.
#pragma once

#include <vector>

#include "graph/kernels/kernel.h"
#include "graph/run_op.h"

namespace sluice::graph {

class OpKernel final : public Kernel {
 public:
  // Shapes are those that run() sees. A null pointer at run time stands for `constants`, where there is one.
  OpKernel(Node node, std::vector<TensorInfo> inputs, std::vector<const Tensor*> constants,
           std::vector<TensorInfo> outputs);
  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void* scratch,
           ThreadPool& pool) override;

 private:
  void infer_left_out();
  const Node node_;
  const std::vector<TensorInfo> input_infos_, output_infos_;
  std::vector<Value> inputs_, outputs_, made_;
  std::vector<const Value*> given_;
  std::vector<ValueType> types_;
  const std::shared_ptr<BufferPool> buffers_;
  Random random_;
};

// The shape in which a tensor of that layout is plain; nullopt if its last block is not full.
std::optional<Shape> permuted_shape(const TensorInfo& info, Layout layout);
// Whether the elements lie in the same order in both layouts.
bool is_same_order(const Shape& shape, Layout a, Layout b);

}  // namespace sluice::graph
