// Where rows of activations lie in each format.
#include <cstring>

#include "base/check.h"
#include "kernels/kernels.h"
#include "kernels/quant_blocks.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kTileRows = 16, kTileInputs = 32, kTileRowBytes = 64, kTileBytes = kTileRows * kTileRowBytes;
static_assert(kActivationAlignment == kTileBytes);

}  // namespace

int64_t activation_row_bytes(ActivationFormat format, int64_t num_inputs) {
  switch (format) {
    case ActivationFormat::kF32:
    case ActivationFormat::kBF16:
      return num_inputs * static_cast<int64_t>(sizeof(float));
    case ActivationFormat::kBF16Pairs:
      return (num_inputs + 1) / 2 * 4;
    case ActivationFormat::kBF16Tiles:
      return (num_inputs + kTileInputs - 1) / kTileInputs * kTileRowBytes;
    case ActivationFormat::kQ8_32:
      DCHECK(num_inputs % 32 == 0, num_inputs);
      return num_inputs / 32 * static_cast<int64_t>(sizeof(BlockQ8_32));
  }
  return 0;
}

int64_t activation_bytes(ActivationFormat format, int64_t num_rows, int64_t num_inputs) {
  if (format == ActivationFormat::kBF16Tiles) num_rows = (num_rows + kTileRows - 1) / kTileRows * kTileRows;
  return num_rows * activation_row_bytes(format, num_inputs);
}

int64_t activation_offset(ActivationFormat format, int64_t num_inputs, int64_t row, int64_t begin) {
  DCHECK(begin % 32 == 0, begin);
  const int64_t row_bytes = activation_row_bytes(format, num_inputs);
  if (format != ActivationFormat::kBF16Tiles) return row * row_bytes + activation_row_bytes(format, begin);
  return row / kTileRows * kTileRows * row_bytes + begin / kTileInputs * kTileBytes + row % kTileRows * kTileRowBytes;
}

void copy_activation_row(ActivationFormat format, int64_t num_inputs, const void* from, void* to) {
  const int64_t row_bytes = activation_row_bytes(format, num_inputs);
  const bool is_tiled = format == ActivationFormat::kBF16Tiles;
  const int64_t bytes = is_tiled ? kTileRowBytes : row_bytes, step = is_tiled ? kTileBytes : row_bytes;
  const auto* x = static_cast<const uint8_t*>(from);
  auto* y = static_cast<uint8_t*>(to);
  for (int64_t left = row_bytes; left > 0; left -= bytes, x += step, y += step) {
    std::memcpy(y, x, static_cast<size_t>(bytes));
  }
}

}  // namespace sluice::kernels
