// Bytes on disk to named tensors: one interface over GGUF (files, split files) and safetensors (files, sharded folders).
//
// Opening maps the file(s) and checks everything before anything is believed: counts, offsets, overlaps, dimension
// products, types. What is handed out points into the mapping (zero-copy) and lives as long as the WeightFile. A file
// that fails any check throws Error(kInvalidArgument) "PATH: what, key, what to do" and costs no memory that a number in its
// header asked for. Immutable after opening; any thread may read.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/tensor.h"

namespace sluice::formats {

// GGUF's typed key/value metadata. Integers of every width are widened; arrays are homogeneous.
using MetadataValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>, std::vector<int64_t>,
                                   std::vector<double>, std::vector<std::string>>;

class Metadata {
 public:
  std::map<std::string, MetadataValue, std::less<>> values;

  bool has(std::string_view key) const { return values.find(key) != values.end(); }
  // nullopt when absent; Error naming the key when of another kind or out of range.
  std::optional<int64_t> find_int(std::string_view key) const;
  std::optional<double> find_float(std::string_view key) const;   // integers count
  std::optional<bool> find_bool(std::string_view key) const;
  const std::string* find_string(std::string_view key) const;
  const std::vector<std::string>* find_strings(std::string_view key) const;
  const std::vector<int64_t>* find_ints(std::string_view key) const;
  const std::vector<double>* find_floats(std::string_view key) const;
};

struct TensorEntry {
  std::string name;
  TensorView view;
};

class WeightFile {
 public:
  virtual ~WeightFile() = default;

  virtual const std::string& path() const = 0;
  virtual const char* format() const = 0;                       // "gguf", "safetensors"
  virtual const std::vector<TensorEntry>& tensors() const = 0;  // in file order
  virtual const Metadata& metadata() const = 0;                 // empty for safetensors without __metadata__
  // Null when there is none of that name.
  virtual const TensorView* find(std::string_view name) const = 0;
};

// A .gguf file (any part of a split one opens all), a .safetensors file, or a folder with model.safetensors,
// model.safetensors.index.json or *.gguf. Decides by content, not by name. Throws Error.
std::unique_ptr<WeightFile> open_weights(const std::string& path);
std::unique_ptr<WeightFile> open_gguf(const std::string& path);
std::unique_ptr<WeightFile> open_safetensors(const std::string& path);
// True if the file starts with "GGUF".
bool is_gguf(const std::string& path);

}  // namespace sluice::formats
