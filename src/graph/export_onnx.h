// A Model as an ONNX file, which import_onnx() turns into the same Model again: for plan files, and for other programs
// as far as they know the operators.
//
// Everything is written: bodies with their captures, all kinds of attributes and element types, types of values.
// Names of inputs and outputs stay; others get a number where two are alike. ONNX has one version of a domain for the
// whole file, a Model one for each node: a node of another version than the file's says so in an attribute
// `sluice_opset`, which the importer takes off again. Reads the model only; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "graph/ir.h"

namespace sluice::graph {

inline constexpr const char* kOpsetAttribute = "sluice_opset";
inline constexpr int64_t kMinExternalBytes = 1024;  // smaller constants stay in the message

// Where the elements of a large constant are written, as they lie in a file (narrow types packed).
struct ExternalPlace {
  std::string location;
  int64_t offset = 0;
};
using ExternalSink = std::function<ExternalPlace(std::span<const uint8_t> bytes)>;

// The bytes of a ModelProto. `sink` is called for each constant of more than kMinExternalBytes, in no special order;
// null: everything is in the message. Throws Error for constants that ONNX cannot hold, and for more than 2 GB.
std::string export_onnx(const Model& model, const ExternalSink& sink = nullptr);

}  // namespace sluice::graph
