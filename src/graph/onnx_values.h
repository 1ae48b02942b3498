// ONNX's messages of tensors and types to ours. Only the files that read ONNX include this. Throws Error for what does
// not fit together; `what` names the thing in its message.
#pragma once

#include <functional>
#include <string>

#include "graph/ir.h"
#include "onnx.pb.h"

namespace sluice::graph {

// Where tensors with external data are; null: there may be none.
//   read(location, offset, num_bytes or -1 for the rest) gives memory and what keeps it.
struct ExternalBytes {
  const uint8_t* data;
  size_t size;
  std::shared_ptr<const void> keeper;
};
using ReadExternal = std::function<ExternalBytes(const std::string& location, int64_t offset, int64_t num_bytes)>;

ElementType read_element_type(int32_t number, const std::string& what);
Tensor read_tensor(const onnx::TensorProto& proto, const std::string& what,
                   const ReadExternal& read_external = nullptr);
// Dense: the elements that are not listed are 0.
Tensor read_sparse_tensor(const onnx::SparseTensorProto& proto, const std::string& what,
                          const ReadExternal& read_external = nullptr);
ValueType read_type(const onnx::TypeProto& proto, const std::string& what);

// A value from the bytes of an input_N.pb or output_N.pb, whose message depends on its type.
Value read_value(const std::string& bytes, const ValueType& type, const std::string& what);

}  // namespace sluice::graph
