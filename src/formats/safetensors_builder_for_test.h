// For tests and fuzz seeds: writes safetensors bytes, well-formed unless told otherwise. Single-threaded.
//
//   std::string bytes = SafetensorsBuilder().tensor("model.norm.weight", {64}, "F32").build();
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "base/tensor.h"
#include "formats/gguf_builder_for_test.h"

namespace sluice::formats {

// The header's 8-byte length, the header as given, and the data.
inline std::string assemble_safetensors(std::string_view header, std::string_view data) {
  std::string out;
  append_bytes<uint64_t>(out, header.size());
  out += header;
  out += data;
  return out;
}

inline int bytes_of_safetensors_type(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64") return 8;
  if (dtype == "F32" || dtype == "I32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16") return 2;
  CHECK(dtype == "F8_E4M3" || dtype == "I8" || dtype == "U8" || dtype == "BOOL", dtype);
  return 1;
}

class SafetensorsBuilder {
 public:
  bool pad_header = true;  // with spaces to a multiple of 8 bytes, as writers do

  SafetensorsBuilder& metadata(std::string_view key, std::string_view value) {
    metadata_[key] = value;
    return *this;
  }
  // REQUIRES: `bytes` absent or of the length that dtype and shape need.
  SafetensorsBuilder& tensor(std::string_view name, const Shape& shape, std::string_view dtype,
                             std::optional<std::string> bytes = {}) {
    std::optional<int64_t> count = count_elements(shape);
    CHECK(count, name);
    size_t num_bytes = static_cast<size_t>(*count) * static_cast<size_t>(bytes_of_safetensors_type(dtype));
    if (!bytes) bytes = make_pattern(name, num_bytes);
    CHECK(bytes->size() == num_bytes, name, bytes->size(), num_bytes);
    json::array dims(shape.begin(), shape.end());
    header_[name] = {
        {"dtype", dtype}, {"shape", dims}, {"data_offsets", {data_.size(), data_.size() + num_bytes}}};
    data_ += *bytes;
    return *this;
  }
  SafetensorsBuilder& f32_tensor(std::string_view name, const Shape& shape,
                                 const std::vector<float>& values) {
    return tensor(name, shape, "F32",
                  std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  }

  std::string build() const {
    json::object header;
    if (!metadata_.empty()) header["__metadata__"] = metadata_;
    for (const auto& member : header_) header[member.key()] = member.value();
    std::string text = json::serialize(header);
    if (pad_header) text.resize((text.size() + 7) / 8 * 8, ' ');
    return assemble_safetensors(text, data_);
  }
  void write(const std::string& path) const { write_file_for_test(path, build()); }

 private:
  json::object metadata_, header_;
  std::string data_;
};

}  // namespace sluice::formats
