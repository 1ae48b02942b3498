// GGUF, versions 2 and 3, little-endian: header, metadata, tensor table, data. The table points into the data
// section, which starts at the next multiple of general.alignment. A split model is several such files with
// split.* keys.
#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "formats/gguf_reader.h"
#include "formats/gguf_types.h"
#include "formats/mapped_weights.h"
#include "formats/names.h"

namespace sluice::formats {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxNameBytes = 1024;  // the format says 64; writers with a larger limit exist
constexpr uint64_t kMaxStringBytes = uint64_t{256} << 20;
constexpr uint32_t kMaxDims = 4;
constexpr int64_t kMaxAlignment = int64_t{1} << 30;
constexpr int64_t kDefaultAlignment = 32;
// The least that a tensor's record takes: its name's length and one byte of it, number of dimensions, type, offset.
constexpr uint64_t kMinRecordBytes = 8 + 1 + 4 + 4 + 8;

template <typename Stored, typename Held>
std::vector<Held> read_numbers(GgufReader& reader, uint64_t count) {
  std::vector<Held> numbers(count);
  for (Held& number : numbers) number = static_cast<Held>(reader.read<Stored>("an array"));
  return numbers;
}

std::vector<int64_t> read_u64s(GgufReader& reader, uint64_t count) {
  std::vector<int64_t> numbers(count);
  for (int64_t& number : numbers) {
    uint64_t value = reader.read<uint64_t>("an array");
    if (value > static_cast<uint64_t>(INT64_MAX)) {
      reader.fail_here("{} in an array is 2^63 or more; not supported", value);
    }
    number = static_cast<int64_t>(value);
  }
  return numbers;
}

bool read_bool(GgufReader& reader) {
  uint8_t byte = reader.read<uint8_t>("a bool");
  if (byte > 1) {
    reader.fail_here("a bool must be 0 or 1, not {}; the file is damaged: download or convert it again",
                     byte);
  }
  return byte == 1;
}

std::string read_text(GgufReader& reader) {
  std::string_view text = reader.read_string("string", kMaxStringBytes);
  reader.charge(sizeof(std::string) + text.size());
  return std::string(text);
}

GgufValue read_value_type(GgufReader& reader) {
  uint32_t type = reader.read<uint32_t>("a value type");
  if (type >= kNumGgufValues) {
    reader.fail_here("unknown value type {} (known: 0 to {}); the file is damaged or newer than this program",
                     type, kNumGgufValues - 1);
  }
  return static_cast<GgufValue>(type);
}

MetadataValue read_array(GgufReader& reader) {
  GgufValue type = read_value_type(reader);
  uint64_t count = reader.read<uint64_t>("an array's length");
  if (type == GgufValue::kArray) {
    reader.fail_here("arrays of arrays are not supported; remove the key from the file");
  }
  uint32_t index = static_cast<uint32_t>(type);
  reader.check_count(count, static_cast<uint64_t>(kGgufValueBytes[index]), "array elements");
  if (type != GgufValue::kString) reader.charge(count * sizeof(int64_t));
  switch (type) {
    case GgufValue::kU8: return read_numbers<uint8_t, int64_t>(reader, count);
    case GgufValue::kI8: return read_numbers<int8_t, int64_t>(reader, count);
    case GgufValue::kU16: return read_numbers<uint16_t, int64_t>(reader, count);
    case GgufValue::kI16: return read_numbers<int16_t, int64_t>(reader, count);
    case GgufValue::kU32: return read_numbers<uint32_t, int64_t>(reader, count);
    case GgufValue::kI32: return read_numbers<int32_t, int64_t>(reader, count);
    case GgufValue::kI64: return read_numbers<int64_t, int64_t>(reader, count);
    case GgufValue::kU64: return read_u64s(reader, count);
    case GgufValue::kF32: return read_numbers<float, double>(reader, count);
    case GgufValue::kF64: return read_numbers<double, double>(reader, count);
    case GgufValue::kBool: {
      std::vector<bool> flags(count);
      for (uint64_t i = 0; i < count; ++i) flags[i] = read_bool(reader);
      return flags;
    }
    case GgufValue::kString: {
      std::vector<std::string> texts;
      // A vocabulary is reserved at once; a length that claims more grows only as its strings are there.
      texts.reserve(std::min<uint64_t>(count, 1 << 20));
      for (uint64_t i = 0; i < count; ++i) texts.push_back(read_text(reader));
      return texts;
    }
    case GgufValue::kArray: break;
  }
  reader.fail_here("unknown array type {}", index);
}

MetadataValue read_value(GgufReader& reader) {
  GgufValue type = read_value_type(reader);
  switch (type) {
    case GgufValue::kU8: return uint64_t{reader.read<uint8_t>("a u8")};
    case GgufValue::kI8: return int64_t{reader.read<int8_t>("an i8")};
    case GgufValue::kU16: return uint64_t{reader.read<uint16_t>("a u16")};
    case GgufValue::kI16: return int64_t{reader.read<int16_t>("an i16")};
    case GgufValue::kU32: return uint64_t{reader.read<uint32_t>("a u32")};
    case GgufValue::kI32: return int64_t{reader.read<int32_t>("an i32")};
    case GgufValue::kF32: return double{reader.read<float>("an f32")};
    case GgufValue::kBool: return read_bool(reader);
    case GgufValue::kString: return read_text(reader);
    case GgufValue::kArray: return read_array(reader);
    case GgufValue::kU64: return reader.read<uint64_t>("a u64");
    case GgufValue::kI64: return reader.read<int64_t>("an i64");
    case GgufValue::kF64: return reader.read<double>("an f64");
  }
  reader.fail_here("unknown value type {}", static_cast<uint32_t>(type));
}

// Keys and tensor names end up in messages, logs and JSON: text, or nothing.
std::string read_name(GgufReader& reader, const char* what, uint64_t max_bytes) {
  std::string_view name = reader.read_string(what, max_bytes);
  bool has_control =
      std::any_of(name.begin(), name.end(), [](char c) { return static_cast<uint8_t>(c) < 0x20; });
  if (name.empty() || has_control || !is_utf8(name)) {
    reader.fail_here(
        "the {} {} is empty or not plain UTF-8 text; the file is damaged: download or convert it again", what,
        quote(name));
  }
  return std::string(name);
}

uint32_t read_version(GgufReader& reader) {
  if (reader.remaining() < 4 || reader.read<uint32_t>("the magic") != kMagic) {
    reader.fail_here("not a GGUF file: it does not start with \"GGUF\"");
  }
  uint32_t version = reader.read<uint32_t>("the version");
  if ((version & 0xffffu) == 0 && version != 0) {
    reader.fail_here("this GGUF file is big-endian (version reads as {:#010x}); convert it to little-endian",
                     version);
  }
  if (version < 2) {
    reader.fail_here("GGUF version {} is not supported; convert the model again (versions 2 and 3 are)",
                     version);
  }
  if (version > 3) reader.fail_here("GGUF version {} is newer than this program knows (2 and 3)", version);
  return version;
}

Metadata read_metadata(GgufReader& reader, uint64_t count) {
  Metadata metadata;
  reader.check_count(count, 8 + 1 + 4 + 1, "metadata keys");  // length, one byte, type, value
  for (uint64_t i = 0; i < count; ++i) {
    reader.at(fmt::format("metadata key {} of {}", i + 1, count));
    std::string key = read_name(reader, "key", kMaxKeyBytes);
    reader.at("metadata key " + quote(key));
    reader.charge(sizeof(std::pair<std::string, MetadataValue>) + key.size());
    auto [position, is_new] = metadata.values.try_emplace(std::move(key));
    if (!is_new) {
      reader.fail_here("the key appears twice; the file is damaged or was written wrongly: convert it again");
    }
    position->second = read_value(reader);
  }
  reader.at("");
  return metadata;
}

int64_t find_alignment(GgufReader& reader, const Metadata& metadata) {
  int64_t alignment = metadata.find_int("general.alignment").value_or(kDefaultAlignment);
  if (alignment < 1 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
    reader.at("metadata key 'general.alignment'");
    reader.fail_here(
        "must be a power of two from 1 to 2^30, not {}; the file is damaged or was written wrongly: "
        "convert it again",
        alignment);
  }
  return alignment;
}

std::string list_supported_types() {
  std::string list;
  for (const GgufTensorType& entry : kGgufTensorTypes) {
    if (entry.type) list += fmt::format("{}{}", list.empty() ? "" : " ", entry.name);
  }
  return list;
}

DType read_tensor_type(GgufReader& reader) {
  uint32_t id = reader.read<uint32_t>("its type");
  const GgufTensorType* known = find_gguf_type(id);
  if (known == nullptr || !known->type) {
    reader.fail_here("tensor type {} ({}) is not supported; quantise the model to one of {}", id,
                     known == nullptr ? "unknown" : known->name, list_supported_types());
  }
  return *known->type;
}

struct TensorRecord {
  TensorEntry entry;
  uint64_t offset = 0;  // in the data section
  uint64_t num_bytes = 0;
};

TensorRecord read_tensor_record(GgufReader& reader) {
  TensorRecord record;
  record.entry.name = read_name(reader, "tensor name", kMaxNameBytes);
  reader.at("tensor " + quote(record.entry.name));
  uint32_t num_dims = reader.read<uint32_t>("its number of dimensions");
  if (num_dims > kMaxDims) {
    reader.fail_here(
        "it has {} dimensions, the format allows {}; the file is damaged: download or convert it again",
        num_dims, kMaxDims);
  }
  Shape& shape = record.entry.view.shape;
  shape.resize(num_dims);
  for (uint32_t i = 0; i < num_dims; ++i) {
    uint64_t dimension = reader.read<uint64_t>("its dimensions");
    if (dimension > static_cast<uint64_t>(INT64_MAX)) {
      reader.fail_here("dimension {} is {}; the file is damaged: download or convert it again", i, dimension);
    }
    shape[num_dims - 1 - i] = static_cast<int64_t>(dimension);  // the file has the fastest first
  }
  DType type = record.entry.view.type = read_tensor_type(reader);
  record.offset = reader.read<uint64_t>("its offset");
  if (record.entry.view.row_size() % get_info(type).block_size != 0) {
    reader.fail_here(
        "rows of {} elements are no multiple of the {} that a block of {} holds; the file was written "
        "wrongly: quantise it again",
        record.entry.view.row_size(), get_info(type).block_size, name(type));
  }
  std::optional<int64_t> num_bytes = count_bytes(type, shape);
  if (!num_bytes) {
    reader.fail_here("the shape {} of {} overflows; the file is damaged: download or convert it again",
                     to_string(shape), name(type));
  }
  record.num_bytes = static_cast<uint64_t>(*num_bytes);
  return record;
}

std::vector<TensorRecord> read_tensor_records(GgufReader& reader, uint64_t count) {
  reader.check_count(count, kMinRecordBytes, "tensors");
  reader.charge(count * sizeof(TensorRecord));
  std::vector<TensorRecord> records;
  records.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    reader.at(fmt::format("tensor {} of {}", i + 1, count));
    records.push_back(read_tensor_record(reader));
  }
  return records;
}

// Each tensor aligned, inside the file, and on bytes of its own.
void check_placement(GgufReader& reader, const std::vector<TensorRecord>& records, uint64_t data_start,
                     uint64_t alignment) {
  uint64_t data_bytes = data_start < reader.size() ? reader.size() - data_start : 0;
  std::vector<const TensorRecord*> by_offset;
  for (const TensorRecord& record : records) {
    reader.at("tensor " + quote(record.entry.name));
    if (record.offset % alignment != 0) {
      reader.fail_here(
          "its offset {} is no multiple of general.alignment {}; the file is damaged: download or "
          "convert it again",
          record.offset, alignment);
    }
    if (record.offset > data_bytes || record.num_bytes > data_bytes - record.offset) {
      reader.fail_here(
          "its {} bytes at offset {} of the data reach beyond the end of the file, which has {} bytes of "
          "data; the file is truncated or damaged: download it again",
          record.num_bytes, record.offset, data_bytes);
    }
    if (record.num_bytes > 0) by_offset.push_back(&record);
  }
  std::sort(by_offset.begin(), by_offset.end(),
            [](const TensorRecord* a, const TensorRecord* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const TensorRecord& before = *by_offset[i - 1];
    if (before.offset + before.num_bytes > by_offset[i]->offset) {
      reader.at("tensor " + quote(by_offset[i]->entry.name));
      reader.fail_here("it overlaps tensor {}; the file is damaged: download or convert it again",
                       quote(before.entry.name));
    }
  }
}

ParsedFile parse(const std::string& path, std::span<const uint8_t> bytes) {
  GgufReader reader(path, bytes);
  ParsedFile parsed;
  uint32_t version = read_version(reader);
  uint64_t num_tensors = reader.read<uint64_t>("the number of tensors");
  uint64_t num_keys = reader.read<uint64_t>("the number of metadata keys");
  reader.check_count(num_tensors, kMinRecordBytes, "tensors");  // before the metadata, which may be long
  parsed.metadata = read_metadata(reader, num_keys);
  parsed.metadata.source = path;
  std::vector<TensorRecord> records = read_tensor_records(reader, num_tensors);
  reader.at("");
  uint64_t alignment = static_cast<uint64_t>(find_alignment(reader, parsed.metadata));
  uint64_t data_start = (reader.position() + alignment - 1) / alignment * alignment;
  check_placement(reader, records, data_start, alignment);
  parsed.tensors.reserve(records.size());
  for (TensorRecord& record : records) {
    // An empty tensor of a file that ends with its header has no byte to point at.
    record.entry.view.data = bytes.data() + std::min<uint64_t>(data_start + record.offset, bytes.size());
    parsed.tensors.push_back(std::move(record.entry));
  }
  parsed.description = fmt::format("GGUF v{}", version);
  return parsed;
}

// "dir/name-00002-of-00003.gguf": stem "dir/name", part 2 of 3.
struct SplitName {
  std::string stem;
  int64_t part = 0, count = 0;

  std::string path_of(int64_t part_number) const {
    return fmt::format("{}-{:05}-of-{:05}.gguf", stem, part_number, count);
  }
};

std::optional<SplitName> parse_split_name(const std::string& path) {
  static constexpr std::string_view kShape = "-00000-of-00000.gguf";  // 0 stands for a digit
  if (path.size() <= kShape.size()) return std::nullopt;
  std::string_view tail = std::string_view(path).substr(path.size() - kShape.size());
  for (size_t i = 0; i < kShape.size(); ++i) {
    bool is_digit = tail[i] >= '0' && tail[i] <= '9';
    if (kShape[i] == '0' ? !is_digit : tail[i] != kShape[i]) return std::nullopt;
  }
  SplitName name{path.substr(0, path.size() - kShape.size()), std::stoll(std::string(tail.substr(1, 5))),
                 std::stoll(std::string(tail.substr(10, 5)))};
  if (name.part < 1 || name.part > name.count) return std::nullopt;
  return name;
}

SplitName get_split_name(const std::string& path, int64_t split_count) {
  std::optional<SplitName> name = parse_split_name(path);
  if (!name) {
    fail(Code::kInvalidArgument,
         "{}: this is one of {} parts (split.count), but its name does not end in -00001-of-{:05}.gguf; "
         "give the parts the names they were made with",
         path, split_count, split_count);
  }
  if (name->count != split_count) {
    fail(Code::kInvalidArgument,
         "{}: its name says {} parts and its metadata key 'split.count' says {}; give the parts the "
         "names they were made with",
         path, name->count, split_count);
  }
  return *name;
}

void check_all_parts_exist(const SplitName& name) {
  static constexpr int kMaxNamed = 5;
  std::string missing;
  int64_t num_missing = 0;
  for (int64_t part = 1; part <= name.count; ++part) {
    std::error_code ignored;
    if (std::filesystem::exists(name.path_of(part), ignored)) continue;
    if (++num_missing <= kMaxNamed) {
      missing +=
          (missing.empty() ? "" : ", ") + std::filesystem::path(name.path_of(part)).filename().string();
    }
  }
  if (num_missing == 0) return;
  if (num_missing > kMaxNamed) missing += fmt::format(" and {} more", num_missing - kMaxNamed);
  fail(Code::kNotFound,
       "{}: the model has {} parts and {} missing beside it: {}; put all parts into one folder",
       name.path_of(name.part), name.count, num_missing == 1 ? "one is" : fmt::format("{} are", num_missing),
       missing);
}

// The value of a split.* key of one part. `required`: an absent key is an error.
void check_split_key(const ParsedFile& part, const char* key, int64_t expected, bool required) {
  std::optional<int64_t> value = part.metadata.find_int(key);
  if (value == expected || (!value && !required)) return;
  fail(Code::kInvalidArgument,
       "{}: metadata key '{}' must be {} in this part, but is {}; the parts do not belong together: "
       "download or split the model again",
       part.metadata.source, key, expected, value ? std::to_string(*value) : "absent");
}

std::unique_ptr<WeightFile> open_split(const std::string& path, int64_t split_count) {
  SplitName name = get_split_name(path, split_count);
  check_all_parts_exist(name);
  ParsedFile whole;
  std::vector<MappedFile> files;
  std::vector<std::pair<std::string, std::optional<int64_t>>> totals;  // path, split.tensors.count
  for (int64_t number = 1; number <= name.count; ++number) {
    MappedFile& file = files.emplace_back(name.path_of(number));
    ParsedFile part = parse(file.path(), file.bytes());
    check_split_key(part, "split.count", name.count, true);
    check_split_key(part, "split.no", number - 1, true);
    totals.emplace_back(file.path(), part.metadata.find_int("split.tensors.count"));
    std::move(part.tensors.begin(), part.tensors.end(), std::back_inserter(whole.tensors));
    if (number == 1) {
      // The other parts repeat nothing of it but the split.* keys.
      whole.metadata = std::move(part.metadata);
      whole.description = fmt::format("{}, {} parts", part.description, name.count);
    }
  }
  int64_t num_tensors = static_cast<int64_t>(whole.tensors.size());
  for (const auto& [part_path, total] : totals) {
    if (total && *total != num_tensors) {
      fail(Code::kInvalidArgument,
           "{}: metadata key 'split.tensors.count' says {}, but the {} parts hold {} tensors; the parts "
           "do not belong together: download or split the model again",
           part_path, *total, name.count, num_tensors);
    }
  }
  return std::make_unique<MappedWeights>(path, "gguf", std::move(whole), std::move(files));
}

}  // namespace

std::unique_ptr<WeightFile> parse_gguf(std::string name, std::span<const uint8_t> bytes) {
  ParsedFile parsed = parse(name, bytes);
  return std::make_unique<MappedWeights>(std::move(name), "gguf", std::move(parsed),
                                         std::vector<MappedFile>());
}

std::unique_ptr<WeightFile> open_gguf(const std::string& path) {
  MappedFile file(path);
  ParsedFile parsed = parse(path, file.bytes());
  int64_t split_count = parsed.metadata.find_int("split.count").value_or(1);
  if (split_count > 1) return open_split(path, split_count);
  std::vector<MappedFile> files;
  files.push_back(std::move(file));
  return std::make_unique<MappedWeights>(path, "gguf", std::move(parsed), std::move(files));
}

}  // namespace sluice::formats
