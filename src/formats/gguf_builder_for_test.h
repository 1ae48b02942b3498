// For tests and fuzz seeds: writes GGUF bytes from metadata and tensors, well-formed unless told otherwise.
//
//   std::string bytes = GgufBuilder().text("general.architecture", "llama").u32("llama.block_count", 2)
//                           .tensor("output.weight", {32, 64}, DType::kQ8_0).build();
//
// Shapes are outermost first, as everywhere in sluice; a tensor given without data gets a byte pattern of the
// right length. Every raw_* method and every override exists to write what the format forbids.
// Single-threaded.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/tensor.h"
#include "formats/gguf_types.h"

namespace sluice::formats {

template <typename T>
void append_bytes(std::string& out, T value) {
  static_assert(std::is_arithmetic_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline void append_text(std::string& out, std::string_view text) {
  append_bytes<uint64_t>(out, text.size());
  out += text;
}

// Bytes of a test tensor, different for each name and place, so that a view onto the wrong bytes shows.
inline std::string make_pattern(std::string_view name, size_t num_bytes) {
  uint32_t state = 2166136261u;
  for (char c : name) state = (state ^ static_cast<uint8_t>(c)) * 16777619u;
  std::string bytes(num_bytes, '\0');
  for (char& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<char>(state >> 24);
  }
  return bytes;
}

inline void write_file_for_test(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  CHECK(out.good(), path);
}

class GgufBuilder {
 public:
  // Overrides of the header's numbers.
  uint32_t version = 3;
  std::optional<uint64_t> num_tensors, num_keys;
  uint64_t alignment = 32;  // of the layout; write the key general.alignment too when it is another
  std::string magic = "GGUF";

  // One metadata pair with the value's bytes as given.
  GgufBuilder& raw_key(std::string_view key, uint32_t type, std::string_view value) {
    append_text(keys_, key);
    append_bytes(keys_, type);
    keys_ += value;
    ++num_keys_written_;
    return *this;
  }
  template <typename T>
  GgufBuilder& scalar(std::string_view key, GgufValue type, T value) {
    std::string bytes;
    append_bytes(bytes, value);
    return raw_key(key, static_cast<uint32_t>(type), bytes);
  }
  GgufBuilder& u8(std::string_view key, uint8_t value) { return scalar(key, GgufValue::kU8, value); }
  GgufBuilder& i8(std::string_view key, int8_t value) { return scalar(key, GgufValue::kI8, value); }
  GgufBuilder& u16(std::string_view key, uint16_t value) { return scalar(key, GgufValue::kU16, value); }
  GgufBuilder& i16(std::string_view key, int16_t value) { return scalar(key, GgufValue::kI16, value); }
  GgufBuilder& u32(std::string_view key, uint32_t value) { return scalar(key, GgufValue::kU32, value); }
  GgufBuilder& i32(std::string_view key, int32_t value) { return scalar(key, GgufValue::kI32, value); }
  GgufBuilder& u64(std::string_view key, uint64_t value) { return scalar(key, GgufValue::kU64, value); }
  GgufBuilder& i64(std::string_view key, int64_t value) { return scalar(key, GgufValue::kI64, value); }
  GgufBuilder& f32(std::string_view key, float value) { return scalar(key, GgufValue::kF32, value); }
  GgufBuilder& f64(std::string_view key, double value) { return scalar(key, GgufValue::kF64, value); }
  GgufBuilder& flag(std::string_view key, bool value) {
    return scalar(key, GgufValue::kBool, static_cast<uint8_t>(value));
  }
  GgufBuilder& text(std::string_view key, std::string_view value) {
    std::string bytes;
    append_text(bytes, value);
    return raw_key(key, static_cast<uint32_t>(GgufValue::kString), bytes);
  }
  GgufBuilder& texts(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes = array_head(GgufValue::kString, values.size());
    for (const std::string& value : values) append_text(bytes, value);
    return raw_key(key, static_cast<uint32_t>(GgufValue::kArray), bytes);
  }
  // An array of any plain type: numbers<int32_t>("k", GgufValue::kI32, {1, 2}).
  template <typename T>
  GgufBuilder& numbers(std::string_view key, GgufValue type, const std::vector<T>& values) {
    std::string bytes = array_head(type, values.size());
    for (T value : values) append_bytes(bytes, value);
    return raw_key(key, static_cast<uint32_t>(GgufValue::kArray), bytes);
  }
  GgufBuilder& i32s(std::string_view key, const std::vector<int32_t>& values) {
    return numbers(key, GgufValue::kI32, values);
  }
  GgufBuilder& f32s(std::string_view key, const std::vector<float>& values) {
    return numbers(key, GgufValue::kF32, values);
  }

  // REQUIRES: `bytes` absent or of the length that type and shape need.
  GgufBuilder& tensor(std::string_view name, const Shape& shape, DType type,
                      std::optional<std::string> bytes = {}) {
    std::optional<uint32_t> id = find_gguf_id(type);
    CHECK(id, name);
    size_t num_bytes = static_cast<size_t>(TensorView{type, shape}.num_bytes());
    if (!bytes) bytes = make_pattern(name, num_bytes);
    CHECK(bytes->size() == num_bytes, name, bytes->size(), num_bytes);
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    std::vector<uint64_t> dims(shape.rbegin(), shape.rend());
    raw_tensor(name, dims, *id, data_.size());
    data_ += *bytes;
    return *this;
  }
  GgufBuilder& f32_tensor(std::string_view name, const Shape& shape, const std::vector<float>& values) {
    return tensor(name, shape, DType::kF32,
                  std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  }
  // One record of the tensor table as given, without data; dimensions fastest first.
  GgufBuilder& raw_tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type_id,
                          uint64_t offset) {
    append_text(table_, name);
    append_bytes(table_, static_cast<uint32_t>(dims.size()));
    for (uint64_t dim : dims) append_bytes(table_, dim);
    append_bytes(table_, type_id);
    append_bytes(table_, offset);
    ++num_tensors_written_;
    return *this;
  }
  GgufBuilder& raw_data(std::string_view bytes) {
    data_ += bytes;
    return *this;
  }

  std::string build() const {
    std::string out = magic;
    append_bytes(out, version);
    append_bytes<uint64_t>(out, num_tensors.value_or(num_tensors_written_));
    append_bytes<uint64_t>(out, num_keys.value_or(num_keys_written_));
    out += keys_;
    out += table_;
    if (!data_.empty()) out.resize((out.size() + alignment - 1) / alignment * alignment, '\0');
    return out + data_;
  }
  void write(const std::string& path) const { write_file_for_test(path, build()); }

 private:
  static std::string array_head(GgufValue type, size_t count) {
    std::string bytes;
    append_bytes(bytes, static_cast<uint32_t>(type));
    append_bytes<uint64_t>(bytes, count);
    return bytes;
  }

  std::string keys_, table_, data_;
  uint64_t num_keys_written_ = 0, num_tensors_written_ = 0;
};

}  // namespace sluice::formats
