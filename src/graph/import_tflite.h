// A TensorFlow Lite file (flatbuffer, "TFL3") to a Model.
//
// Operators become nodes of ai.onnx: images turn from channels last into channels second where convolutions and pools
// want them, quantised tensors get a DequantizeLinear and a QuantizeLinear around what is computed. Inputs and outputs
// stay as the file has them: order, names of tensors, element types, channels last. The first subgraph is read; a file
// with tensors that keep their values from run to run (variables), sparse weights, control flow or custom operators is
// refused. Everything that is not supported is collected and told in one Error. docs/tflite.md has the list of
// operators.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "graph/ir.h"

namespace sluice::graph {

// Throws Error: not found, no TFLite model, or all the reasons why this model cannot be run. Weights stay in the mapped
// file.
Model import_tflite(const std::string& path);
// The same from memory, of which everything is copied.
Model import_tflite(std::span<const uint8_t> bytes, const std::string& name);
// Whether the file says that it is one.
bool is_tflite(std::span<const uint8_t> bytes);

}  // namespace sluice::graph
