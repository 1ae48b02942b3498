// Bytes on disk to named tensors: one interface over GGUF (files, split files) and safetensors (files,
// sharded folders).
//
// Opening maps the file(s) and checks everything before anything is believed: counts, offsets, overlaps,
// dimension products, types. What is handed out points into the mapping (zero-copy) and lives as long as the
// WeightFile. A file that fails any check throws Error(kInvalidArgument) "PATH: what, key, what to do" and
// costs no memory that a number in its header asked for. Immutable after opening; any thread may read.
//
// Alignment: TensorView::data is always aligned for its element type (its size; 2 for quantised blocks).
// Writers lay tensors out that way; the rare tensor that is not is copied into memory of its own at opening
// instead of being mapped, so no consumer needs a special load. A file that shrinks while it is mapped kills
// the process (SIGBUS), as with any mapping: replace model files by rename, never in place.
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
using MetadataValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>,
                                   std::vector<int64_t>, std::vector<double>, std::vector<std::string>>;

class Metadata {
 public:
  std::map<std::string, MetadataValue, std::less<>> values;
  std::string source;  // the file, for error messages; may be empty

  bool has(std::string_view key) const { return values.find(key) != values.end(); }
  // nullopt or null when absent; Error naming the key when of another kind or out of range. An empty array is
  // an empty array of every kind.
  std::optional<int64_t> find_int(std::string_view key) const;
  std::optional<double> find_float(std::string_view key) const;  // integers count
  std::optional<bool> find_bool(std::string_view key) const;
  const std::string* find_string(std::string_view key) const;
  const std::vector<std::string>* find_strings(std::string_view key) const;
  const std::vector<int64_t>* find_ints(std::string_view key) const;
  const std::vector<double>* find_floats(std::string_view key) const;
};

// "a string", "an array of integers": how errors name what was there.
const char* describe_kind(const MetadataValue& value);

struct TensorEntry {
  std::string name;
  TensorView view;
};

struct WeightPart {
  std::string path;
  int64_t num_bytes = 0;
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

  // The files behind it, in order: several for split GGUF and sharded safetensors, none when it was not read
  // from a file.
  virtual std::vector<WeightPart> parts() const { return {}; }
  // The tensor's mapped pages are not needed for now: gives their memory back. Its data stays readable.
  virtual void release(const TensorView&) const {}
  // For people: "GGUF v3", "safetensors".
  virtual std::string description() const { return format(); }
};

// A .gguf file (any part of a split one opens all), a .safetensors file, a *.safetensors.index.json, or a
// folder with model.safetensors, model.safetensors.index.json, one other .safetensors or one .gguf (all parts
// of a split one count as one). Decides by content, not by name. Throws Error.
std::unique_ptr<WeightFile> open_weights(const std::string& path);
std::unique_ptr<WeightFile> open_gguf(const std::string& path);
std::unique_ptr<WeightFile> open_safetensors(const std::string& path);
// True if it is a readable file that starts with "GGUF"; never throws.
bool is_gguf(const std::string& path);

}  // namespace sluice::formats
