// Element types and a borrowed view of a tensor in memory.
//
// A DType is either a plain element (f32, bf16, ...) or a quantised block type, in which block_size consecutive
// elements of a row share block_bytes bytes (the layouts are in kernels/quant_blocks.h). Shapes are outermost first
// (row-major, as in NumPy): a weight matrix is [num_outputs, num_inputs]. A TensorView owns nothing; whoever mapped
// the file keeps the bytes alive.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace sluice {

struct DTypeInfo {
  const char* name;     // "f32", "q4_0", "q4_k": lower case, as `sluice inspect` prints it
  int block_size;       // elements a block
  int block_bytes;      // bytes a block
  bool is_quantised;
};

const DTypeInfo& get_info(DType type);
inline const char* name(DType type) { return get_info(type).name; }
std::optional<DType> find_dtype(std::string_view name);

// Bytes of one row of `num_elements` elements. REQUIRES: num_elements % block_size == 0 and no overflow.
inline int64_t row_bytes(DType type, int64_t num_elements) {
  const DTypeInfo& info = get_info(type);
  return num_elements / info.block_size * info.block_bytes;
}

using Shape = std::vector<int64_t>;

// Product of the dimensions; nullopt on overflow or a negative dimension.
std::optional<int64_t> count_elements(const Shape& shape);
std::string to_string(const Shape& shape);  // "[32000, 2048]"

struct TensorView {
  DType type = DType::kF32;
  Shape shape;                 // outermost first
  const uint8_t* data = nullptr;

  int64_t num_rows() const;    // product of all but the last dimension
  int64_t row_size() const { return shape.empty() ? 1 : shape.back(); }
  int64_t num_bytes() const { return num_rows() * row_bytes(type, row_size()); }
};

}  // namespace sluice
