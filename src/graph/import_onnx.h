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

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "graph/ir.h"

namespace sluice::graph {

inline constexpr int64_t kMaxNodes = 250'000;              // after functions were put in place; their calls count too
inline constexpr int kMaxDepth = 32;                       // of bodies and functions in each other
inline constexpr size_t kMaxCopiedBytes = size_t{1} << 28;  // of names and attributes, by calls of functions

// Memory with external data, and what keeps it.
struct ExternalBytes {
  const uint8_t* data;
  size_t size;
  std::shared_ptr<const void> keeper;
};
// read(location, offset, num_bytes). Throws Error for what is not there.
using ReadExternal = std::function<ExternalBytes(const std::string& location, int64_t offset, int64_t num_bytes)>;

// Throws Error: not found, no ONNX model, or all the reasons why this model cannot be run.
Model import_onnx(const std::string& path);
// The same from memory; `directory` is where external data may be, empty: nowhere.
Model import_onnx(std::span<const uint8_t> bytes, const std::string& name, const std::string& directory = "");
// The same with external data from `read`, wherever the model says it is.
Model import_onnx(std::span<const uint8_t> bytes, const std::string& name, const ReadExternal& read);

}  // namespace sluice::graph
