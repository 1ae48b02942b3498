// The numbers of the GGUF format: tensor type ids and metadata value types. One table for reading and for the
// builders of tests.
#pragma once

#include <cstdint>
#include <optional>

#include "base/tensor.h"

namespace sluice::formats {

struct GgufTensorType {
  uint32_t id;
  const char* name;           // as the format writes it
  std::optional<DType> type;  // nullopt: known, not supported
};

inline constexpr GgufTensorType kGgufTensorTypes[] = {
    {0, "F32", DType::kF32},          {1, "F16", DType::kF16},          {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},        {4, "Q4_2", std::nullopt},        {5, "Q4_3", std::nullopt},
    {6, "Q5_0", DType::kQ5_0},        {7, "Q5_1", DType::kQ5_1},        {8, "Q8_0", DType::kQ8_0},
    {9, "Q8_1", std::nullopt},        {10, "Q2_K", DType::kQ2_K},       {11, "Q3_K", DType::kQ3_K},
    {12, "Q4_K", DType::kQ4_K},       {13, "Q5_K", DType::kQ5_K},       {14, "Q6_K", DType::kQ6_K},
    {15, "Q8_K", std::nullopt},       {16, "IQ2_XXS", std::nullopt},    {17, "IQ2_XS", std::nullopt},
    {18, "IQ3_XXS", std::nullopt},    {19, "IQ1_S", std::nullopt},      {20, "IQ4_NL", DType::kIQ4_NL},
    {21, "IQ3_S", std::nullopt},      {22, "IQ2_S", std::nullopt},      {23, "IQ4_XS", DType::kIQ4_XS},
    {24, "I8", DType::kI8},           {25, "I16", DType::kI16},         {26, "I32", DType::kI32},
    {27, "I64", DType::kI64},         {28, "F64", DType::kF64},         {29, "IQ1_M", std::nullopt},
    {30, "BF16", DType::kBF16},       {31, "Q4_0_4_4", std::nullopt},   {32, "Q4_0_4_8", std::nullopt},
    {33, "Q4_0_8_8", std::nullopt},   {34, "TQ1_0", std::nullopt},      {35, "TQ2_0", std::nullopt},
    {36, "IQ4_NL_4_4", std::nullopt}, {37, "IQ4_NL_4_8", std::nullopt}, {38, "IQ4_NL_8_8", std::nullopt},
    {39, "MXFP4", std::nullopt},
};

// Null when the id is in no known version of the format.
inline const GgufTensorType* find_gguf_type(uint32_t id) {
  for (const GgufTensorType& entry : kGgufTensorTypes) {
    if (entry.id == id) return &entry;
  }
  return nullptr;
}

// nullopt for types that GGUF cannot hold (f8_e4m3, bool, u8).
inline std::optional<uint32_t> find_gguf_id(DType type) {
  for (const GgufTensorType& entry : kGgufTensorTypes) {
    if (entry.type == type) return entry.id;
  }
  return std::nullopt;
}

enum class GgufValue : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
inline constexpr uint32_t kNumGgufValues = 13;

// Bytes of one value; for a string and an array, of what every one of them starts with.
inline constexpr int kGgufValueBytes[kNumGgufValues] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

}  // namespace sluice::formats
