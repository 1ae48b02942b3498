#include "formats/mapped_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "formats/names.h"

namespace sluice::formats {

MappedWeights::MappedWeights(std::string path, const char* format, ParsedFile parsed,
                             std::vector<MappedFile> files)
    : path_(std::move(path)), format_(format), parsed_(std::move(parsed)), files_(std::move(files)) {
  index_by_name_.reserve(parsed_.tensors.size());
  for (size_t i = 0; i < parsed_.tensors.size(); ++i) {
    TensorEntry& entry = parsed_.tensors[i];
    if (!index_by_name_.emplace(entry.name, i).second) {
      fail(Code::kInvalidArgument,
           "{}: two tensors are named {}; the file is damaged or was written wrongly: convert it again",
           path_, quote(entry.name));
    }
    TensorView& view = entry.view;
    if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(required_alignment(view.type)) != 0) {
      size_t num_bytes = static_cast<size_t>(view.num_bytes());
      std::unique_ptr<uint8_t[]> copy(new uint8_t[std::max<size_t>(num_bytes, 1)]);
      std::memcpy(copy.get(), view.data, num_bytes);
      view.data = copy.get();
      copies_.push_back(std::move(copy));
    }
  }
}

const TensorView* MappedWeights::find(std::string_view name) const {
  auto found = index_by_name_.find(name);
  return found == index_by_name_.end() ? nullptr : &parsed_.tensors[found->second].view;
}

std::vector<WeightPart> MappedWeights::parts() const {
  std::vector<WeightPart> parts;
  for (const MappedFile& file : files_) {
    parts.push_back({file.path(), static_cast<int64_t>(file.bytes().size())});
  }
  return parts;
}

void MappedWeights::release(const TensorView& view) const {
  for (const MappedFile& file : files_) file.release({view.data, static_cast<size_t>(view.num_bytes())});
}

std::optional<int64_t> count_bytes(DType type, const Shape& shape) {
  const DTypeInfo& info = get_info(type);
  int64_t product = info.block_bytes;  // with zeros read as ones
  bool is_empty = false;
  for (size_t i = 0; i < shape.size(); ++i) {
    int64_t dimension = i + 1 == shape.size() ? shape[i] / info.block_size : shape[i];
    is_empty = is_empty || dimension == 0;
    if (__builtin_mul_overflow(product, std::max<int64_t>(dimension, 1), &product)) return std::nullopt;
  }
  // Element counts must fit too: a block holds more elements than bytes.
  if (product > INT64_MAX / info.block_size) return std::nullopt;
  return is_empty ? 0 : product;
}

int required_alignment(DType type) {
  const DTypeInfo& info = get_info(type);
  return info.is_quantised ? 2 : info.block_bytes;
}

}  // namespace sluice::formats
