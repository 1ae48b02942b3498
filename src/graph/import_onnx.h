// An ONNX file to a Model.
//
// Reads opsets 7 to 28 (features.md of ONNX: operators by the opset that the file names), external data beside the file,
// initialisers that are also inputs, bodies of control flow, sparse initialisers and functions of the model, which are
// put in place of the nodes that call them. Types and shapes are inferred as far as they can be. Everything that is
// wrong or not supported is collected and told in one Error. Bounded: by the size of the file, kMaxNodes and kMaxDepth.
#pragma once

#include <span>
#include <string>

#include "graph/ir.h"

namespace sluice::graph {

inline constexpr int64_t kMaxNodes = 1'000'000;  // after functions were put in place
inline constexpr int kMaxDepth = 32;             // of bodies and functions in each other

// Throws Error: not found, no ONNX model, or all the reasons why this model cannot be run.
Model import_onnx(const std::string& path);
// The same from memory; `directory` is where external data may be, empty: nowhere.
Model import_onnx(std::span<const uint8_t> bytes, const std::string& name, const std::string& directory = "");

}  // namespace sluice::graph
