#include "base/tensor.h"

#include <array>

#include "base/check.h"

namespace sluice {
namespace {

constexpr std::array<DTypeInfo, kNumDTypes> kInfos = {{
    {"f32", 1, 4, false},     {"f16", 1, 2, false},     {"bf16", 1, 2, false},    {"f8_e4m3", 1, 1, false},
    {"q4_0", 32, 18, true},   {"q4_1", 32, 20, true},   {"q5_0", 32, 22, true},   {"q5_1", 32, 24, true},
    {"q8_0", 32, 34, true},   {"q2_k", 256, 84, true},  {"q3_k", 256, 110, true}, {"q4_k", 256, 144, true},
    {"q5_k", 256, 176, true}, {"q6_k", 256, 210, true}, {"iq4_nl", 32, 18, true}, {"iq4_xs", 256, 136, true},
    {"i8", 1, 1, false},      {"i16", 1, 2, false},     {"i32", 1, 4, false},     {"i64", 1, 8, false},
    {"f64", 1, 8, false},     {"bool", 1, 1, false},    {"u8", 1, 1, false},
}};

}  // namespace

const DTypeInfo& get_info(DType type) {
  DCHECK(static_cast<int>(type) < kNumDTypes);
  return kInfos[static_cast<int>(type)];
}

std::optional<DType> find_dtype(std::string_view name) {
  for (int i = 0; i < kNumDTypes; ++i) {
    if (name == kInfos[i].name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::optional<int64_t> count_elements(const Shape& shape) {
  int64_t count = 1;
  for (int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(count, dimension, &count)) return std::nullopt;
  }
  return count;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

int64_t TensorView::num_rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

}  // namespace sluice
