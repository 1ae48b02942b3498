// One operator of a TFLite file, and the functions that put nodes of ours in its place, listed by its number. Each
// handler reads the operator's options and tensors, emits nodes through the TfliteGraph and sets the outputs. Throws
// Error for what is wrong or not supported; import_tflite.cc adds which operator it was.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "graph/import_tflite_graph.h"
#include "tflite_generated.h"

namespace sluice::graph {

struct TfliteOp {
  TfliteGraph& graph;
  const tflite::Operator& op;
  tflite::BuiltinOperator code;
  std::vector<int> inputs, outputs;  // -1: left out; otherwise there is such a tensor

  int num_inputs() const { return static_cast<int>(inputs.size()); }
  int num_outputs() const { return static_cast<int>(outputs.size()); }
  bool has_input(int i) const { return i < num_inputs() && inputs[static_cast<size_t>(i)] >= 0; }
  // Throw Error if it is left out.
  int input(int i) const {
    if (!has_input(i)) fail(Code::kInvalidArgument, "input {} is missing", i);
    return inputs[static_cast<size_t>(i)];
  }
  int output(int i) const {
    if (i >= num_outputs() || outputs[static_cast<size_t>(i)] < 0)
      fail(Code::kInvalidArgument, "output {} is missing", i);
    return outputs[static_cast<size_t>(i)];
  }
  const TfliteTensor& in(int i) const { return graph.tensor(input(i)); }
  const TfliteTensor& out(int i) const { return graph.tensor(output(i)); }

  // Null if the operator has none, or others.
  template <typename T>
  const T* find_options() const {
    return op.builtin_options_type() == tflite::BuiltinOptionsTraits<T>::enum_value
               ? static_cast<const T*>(op.builtin_options())
               : nullptr;
  }
  template <typename T>
  const T& options() const {
    const T* found = find_options<T>();
    if (found == nullptr) fail(Code::kInvalidArgument, "its options are missing");
    return *found;
  }
  // The numbers of a constant input. Throws Error if it is computed.
  std::vector<int64_t> constant_ints(int i, const char* what) const {
    std::optional<std::vector<int64_t>> found = graph.find_ints(input(i));
    if (!found) fail(Code::kUnimplemented, "{} is computed at run time, or no integers; only constants work", what);
    return *std::move(found);
  }
  // As an index of 0 to rank - 1. Throws Error.
  static int64_t axis(int64_t axis, int64_t rank) {
    if (axis < -rank || axis >= rank) fail(Code::kInvalidArgument, "axis {} of {} dimensions", axis, rank);
    return axis < 0 ? axis + rank : axis;
  }
  int rank(int i) const {
    if (!in(i).has_rank) fail(Code::kUnimplemented, "the rank of tensor '{}' is not in the file", in(i).name);
    return in(i).rank();
  }
  // With channels second if input `i` is so already.
  TfliteLayout layout(int i = 0) const {
    return in(i).is_image() && graph.has_second(input(i)) ? TfliteLayout::kSecond : TfliteLayout::kLast;
  }
  // Applies the activation, and makes it the output.
  void finish(ValueId value, tflite::Activation activation, TfliteLayout layout) const;
  // Where an operator that only moves elements may take them as they are stored: scale and zero point are the same, of
  // input i and all outputs.
  bool keeps_numbers(int i) const;
  // Input i for something that moves elements, and what it makes of input 0.
  ValueId moved(int i, TfliteLayout layout = TfliteLayout::kLast) const;
  void finish_moved(ValueId value, TfliteLayout layout = TfliteLayout::kLast) const;
  // All outputs, moved from input i.
  void finish_parts(const std::vector<ValueId>& parts, TfliteLayout layout, int i) const;
};

struct TfliteHandler {
  tflite::BuiltinOperator code;
  void (*run)(TfliteOp& op);
};

std::span<const TfliteHandler> tflite_nn_handlers();
std::span<const TfliteHandler> tflite_math_handlers();
std::span<const TfliteHandler> tflite_shape_handlers();
std::span<const TfliteHandler> tflite_slice_handlers();

}  // namespace sluice::graph
