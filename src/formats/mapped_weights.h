// What the two parsers of this folder share: the WeightFile that holds the mappings, and the arithmetic that
// every tensor of every format is put through. Only gguf.cc and safetensors.cc and their tests include this.
//
// A parser turns the bytes of one file into a ParsedFile whose views point into those bytes; MappedWeights
// takes the parsed parts together with the mappings that keep the bytes alive.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mmap.h"
#include "formats/weight_file.h"

namespace sluice::formats {

struct ParsedFile {
  Metadata metadata;
  std::vector<TensorEntry> tensors;  // in file order; views point into the parsed bytes
  std::string description;           // "GGUF v3"
};

class MappedWeights final : public WeightFile {
 public:
  // Throws Error if two tensors have one name. Copies tensors that are not aligned for their type.
  MappedWeights(std::string path, const char* format, ParsedFile parsed, std::vector<MappedFile> files);

  const std::string& path() const override { return path_; }
  const char* format() const override { return format_; }
  const std::vector<TensorEntry>& tensors() const override { return parsed_.tensors; }
  const Metadata& metadata() const override { return parsed_.metadata; }
  const TensorView* find(std::string_view name) const override;
  std::vector<WeightPart> parts() const override;
  void release(const TensorView& view) const override;
  std::string description() const override { return parsed_.description; }

 private:
  const std::string path_;
  const char* const format_;
  ParsedFile parsed_;
  std::vector<MappedFile> files_;
  std::vector<std::unique_ptr<uint8_t[]>> copies_;              // tensors that were not aligned
  std::unordered_map<std::string_view, size_t> index_by_name_;  // names live in parsed_.tensors
};

// Bytes of a tensor; nullopt when the product of its dimensions overflows (also that of the non-zero ones, so
// that no partial product overflows later). REQUIRES: dimensions >= 0 and the last a multiple of the block
// size.
std::optional<int64_t> count_bytes(DType type, const Shape& shape);

// Bytes at which a consumer may expect data of this type: the element's size, 2 for quantised blocks (they
// hold f16).
int required_alignment(DType type);

// The same parsers over bytes in memory, which must outlive the result. `name` stands for the path in
// messages. One part of a split GGUF is opened by itself.
std::unique_ptr<WeightFile> parse_gguf(std::string name, std::span<const uint8_t> bytes);
std::unique_ptr<WeightFile> parse_safetensors(std::string name, std::span<const uint8_t> bytes);

}  // namespace sluice::formats
