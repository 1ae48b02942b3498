// An ONNX file to a Model.
//
// Reads opsets 7 to 28 (operators by the opset that the file names), external data beside the file, initialisers
// that are also inputs, bodies of control flow, sparse initialisers and functions of the model, which are put in place
// of the nodes that call them. Types and shapes are inferred as far as they can be. Everything that is wrong or not
// supported is collected and told in one Error. Bounded: by the size of the file and the constants below.
//
// External data has to lie in the folder of the model or below. Symbolic links are followed, but the file at their end
// has to lie there too, or in the folder `blobs` beside a folder `snapshots` around it, as in Hugging Face's cache
// (models--A--B/snapshots/REVISION/model.onnx_data is a link to models--A--B/blobs/HASH). The folder of the model is
// the one in the path as given, also where the model itself is a link.
#pragma once

#include <span>
#include <string>

#include "graph/ir.h"

namespace sluice::graph {

inline constexpr int64_t kMaxNodes = 250'000;              // after functions were put in place; their calls count too
inline constexpr int kMaxDepth = 32;                       // of bodies and functions in each other
inline constexpr size_t kMaxCopiedBytes = size_t{1} << 28;  // of names and attributes, by calls of functions

// Throws Error: not found, no ONNX model, or all the reasons why this model cannot be run.
Model import_onnx(const std::string& path);
// The same from memory; `directory` is where external data may be, empty: nowhere.
Model import_onnx(std::span<const uint8_t> bytes, const std::string& name, const std::string& directory = "");

}  // namespace sluice::graph
