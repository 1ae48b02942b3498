// ONNX's messages of tensors and types to ours. Only the files that read ONNX include this. Throws Error for what does
// not fit together; `what` names the thing in its message.
#pragma once

#include <string>

#include "graph/import_onnx.h"
#include "graph/ir.h"
#include "onnx.pb.h"

namespace sluice::graph {

ElementType read_element_type(int32_t number, const std::string& what);
// `read_external`: where tensors with external data are; null: there may be none.
Tensor read_tensor(const onnx::TensorProto& proto, const std::string& what,
                   const ReadExternal& read_external = nullptr);
// Dense: the elements that are not listed are 0.
Tensor read_sparse_tensor(const onnx::SparseTensorProto& proto, const std::string& what,
                          const ReadExternal& read_external = nullptr);
ValueType read_type(const onnx::TypeProto& proto, const std::string& what);

// A value from the bytes of an input_N.pb or output_N.pb, whose message depends on its type.
Value read_value(const std::string& bytes, const ValueType& type, const std::string& what);

}  // namespace sluice::graph
