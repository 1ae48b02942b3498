// safetensors: eight bytes of header length, a JSON header, data. The header maps each tensor's name to its
// dtype, shape and byte range; the ranges must tile the data. A sharded checkpoint is a folder with an index
// that maps names to such files.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <unordered_set>

#include "base/error.h"
#include "base/json.h"
#include "formats/mapped_weights.h"
#include "formats/names.h"

namespace sluice::formats {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the format says
// A header within the byte limit could still hold 50 million values, each many times its text's size once
// parsed. A tensor has about seven.
constexpr size_t kMaxHeaderValues = 8'000'000;
constexpr size_t kMaxIndexBytes = 100'000'000;

struct NamedType {
  const char* name;
  DType type;
};
constexpr NamedType kTypes[] = {
    {"F64", DType::kF64},        {"F32", DType::kF32}, {"F16", DType::kF16},   {"BF16", DType::kBF16},
    {"F8_E4M3", DType::kF8E4M3}, {"I64", DType::kI64}, {"I32", DType::kI32},   {"I16", DType::kI16},
    {"I8", DType::kI8},          {"U8", DType::kU8},   {"BOOL", DType::kBool},
};

// One tensor of a header being read; knows how to complain.
struct Place {
  const std::string& path;
  std::string_view tensor;

  template <typename... Args>
  [[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) const {
    std::string what = fmt::format(format, std::forward<Args>(args)...);
    fail(Code::kInvalidArgument, "{}: tensor {}: {}", path, quote(tensor), what);
  }
};

// Before the header is parsed: counts its values, and looks for names that appear twice, of which Boost.JSON
// would silently keep the last. The text may still be anything.
void scan_header(const std::string& path, std::string_view text) {
  std::unordered_set<std::string_view> names;
  size_t num_values = 0;
  int depth = 0;
  bool wants_name = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '"') {
      size_t begin = i + 1;
      for (i = begin; i < text.size() && text[i] != '"'; ++i) i += text[i] == '\\';
      if (i >= text.size()) return;
      std::string_view name = text.substr(begin, i - begin);
      if (wants_name && !names.insert(name).second) {
        fail(Code::kInvalidArgument,
             "{}: two tensors are named {}; the file is damaged or was written wrongly: convert it again",
             path, quote(name));
      }
      wants_name = false;
    } else if (c == '{' || c == '[') {
      wants_name = ++depth == 1;
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c == ',') {
      wants_name = depth == 1;
      if (++num_values > kMaxHeaderValues) {
        fail(Code::kInvalidArgument, "{}: the header holds more than {} values; the file is damaged", path,
             kMaxHeaderValues);
      }
    }
  }
}

int64_t get_natural(const Place& place, const char* what, const json::value& value) {
  if (value.is_int64() && value.get_int64() >= 0) return value.get_int64();
  place.fail_here(
      "{} must hold integers from 0 to 2^63-1, not {}; the file is damaged: download or convert it again",
      what, value.is_uint64() ? std::string("2^63 or more") : json::serialize(value).substr(0, 40));
}

const json::value& get_field(const Place& place, const json::object& fields, const char* key) {
  const json::value* value = json::find(fields, key);
  if (value == nullptr) {
    place.fail_here("the header has no '{}' for it; the file is damaged: download or convert it again", key);
  }
  return *value;
}

DType get_type(const Place& place, const json::value& value) {
  if (!value.is_string()) place.fail_here("'dtype' must be a string, not {}", json::describe(value));
  std::string_view wanted = value.get_string();
  std::string list;
  for (const NamedType& entry : kTypes) {
    if (wanted == entry.name) return entry.type;
    list += fmt::format("{}{}", list.empty() ? "" : " ", entry.name);
  }
  place.fail_here("dtype {} is not supported; convert the checkpoint to one of {}", quote(wanted), list);
}

struct TensorRecord {
  TensorEntry entry;
  uint64_t begin = 0, end = 0;  // in the data
};

TensorRecord read_record(const std::string& path, std::string_view name, const json::value& value,
                         uint64_t data_bytes) {
  Place place{path, name};
  if (name.empty() || name.find('\0') != std::string_view::npos) {
    place.fail_here("the name is empty or holds a zero byte");
  }
  if (!value.is_object()) {
    place.fail_here("its entry in the header must be an object, not {}", json::describe(value));
  }
  const json::object& fields = value.get_object();
  TensorRecord record;
  record.entry.name = std::string(name);
  TensorView& view = record.entry.view;
  view.type = get_type(place, get_field(place, fields, "dtype"));

  const json::value& shape = get_field(place, fields, "shape");
  if (!shape.is_array()) place.fail_here("'shape' must be a list, not {}", json::describe(shape));
  for (const json::value& dimension : shape.get_array()) {
    view.shape.push_back(get_natural(place, "'shape'", dimension));
  }
  std::optional<int64_t> num_bytes = count_bytes(view.type, view.shape);
  if (!num_bytes) {
    place.fail_here("the shape {} of {} overflows; the file is damaged: download or convert it again",
                    quote(to_string(view.shape)), sluice::name(view.type));
  }

  const json::value& offsets = get_field(place, fields, "data_offsets");
  if (!offsets.is_array() || offsets.get_array().size() != 2) {
    place.fail_here("'data_offsets' must be a list of two integers");
  }
  record.begin = static_cast<uint64_t>(get_natural(place, "'data_offsets'", offsets.get_array()[0]));
  record.end = static_cast<uint64_t>(get_natural(place, "'data_offsets'", offsets.get_array()[1]));
  if (record.begin > record.end || record.end > data_bytes) {
    place.fail_here(
        "its bytes [{}, {}) are not inside the {} bytes of data; the file is truncated or damaged: "
        "download it again",
        record.begin, record.end, data_bytes);
  }
  if (record.end - record.begin != static_cast<uint64_t>(*num_bytes)) {
    place.fail_here(
        "its {} bytes do not fit its shape {} of {}, which takes {}; the file is damaged: download or "
        "convert it again",
        record.end - record.begin, quote(to_string(view.shape)), sluice::name(view.type), *num_bytes);
  }
  return record;
}

void read_metadata(const std::string& path, const json::value& value, Metadata& metadata) {
  if (!value.is_object()) {
    fail(Code::kInvalidArgument, "{}: '__metadata__' must be an object of strings, not {}", path,
         json::describe(value));
  }
  for (const auto& member : value.get_object()) {
    if (!member.value().is_string()) {
      fail(Code::kInvalidArgument, "{}: '__metadata__' entry {} must be a string, not {}", path,
           quote(member.key()), json::describe(member.value()));
    }
    metadata.values.emplace(std::string(member.key()), std::string(member.value().get_string()));
  }
}

// The ranges must tile the data: no byte belongs to two tensors, none to nobody.
void check_tiling(const std::string& path, const std::vector<TensorRecord>& records, uint64_t data_bytes) {
  uint64_t covered = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    Place place{path, records[i].entry.name};
    if (records[i].begin < covered) {
      place.fail_here("it overlaps tensor {}; the file is damaged: download or convert it again",
                      quote(records[i - 1].entry.name));
    }
    if (records[i].begin > covered) {
      place.fail_here(
          "it starts at byte {} of the data, but the tensors before it end at {}; the file is damaged: "
          "download or convert it again",
          records[i].begin, covered);
    }
    covered = records[i].end;
  }
  if (covered != data_bytes) {
    fail(Code::kInvalidArgument,
         "{}: the last tensor ends at byte {} of the data, which has {} bytes; the file is damaged: "
         "download or convert it again",
         path, covered, data_bytes);
  }
}

std::string_view get_header(const std::string& path, std::span<const uint8_t> bytes) {
  if (bytes.size() < 8) {
    fail(Code::kInvalidArgument, "{}: {} bytes are too few for a safetensors file; download it again", path,
         bytes.size());
  }
  uint64_t length;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kMaxHeaderBytes) {
    fail(Code::kInvalidArgument,
         "{}: a header of {} bytes is above the format's limit of {}; this is not a safetensors file, or "
         "a damaged one",
         path, length, kMaxHeaderBytes);
  }
  if (length > bytes.size() - 8) {
    fail(Code::kInvalidArgument,
         "{}: the header claims {} bytes and the file has {}; it is truncated: download it again", path,
         length, bytes.size());
  }
  std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  if (text.empty() || text[0] != '{') {
    fail(Code::kInvalidArgument,
         "{}: the header does not start with '{{'; this is not a safetensors file, or a damaged one", path);
  }
  return text;
}

ParsedFile parse(const std::string& path, std::span<const uint8_t> bytes) {
  std::string_view text = get_header(path, bytes);
  scan_header(path, text);
  json::value header;
  try {
    header = json::parse(text, 8);
  } catch (const Error& error) {
    fail(Code::kInvalidArgument,
         "{}: the header is no valid JSON ({}); the file is damaged: download it again", path,
         error.message());
  }
  std::span<const uint8_t> data = bytes.subspan(8 + text.size());
  ParsedFile parsed;
  parsed.metadata.source = path;
  parsed.description = "safetensors";
  std::vector<TensorRecord> records;
  for (const auto& member : header.get_object()) {
    if (member.key() == "__metadata__") {
      read_metadata(path, member.value(), parsed.metadata);
    } else {
      records.push_back(read_record(path, member.key(), member.value(), data.size()));
    }
  }
  std::sort(records.begin(), records.end(), [](const TensorRecord& a, const TensorRecord& b) {
    return std::tie(a.begin, a.end, a.entry.name) < std::tie(b.begin, b.end, b.entry.name);
  });
  check_tiling(path, records, data.size());
  parsed.tensors.reserve(records.size());
  for (TensorRecord& record : records) {
    record.entry.view.data = data.data() + record.begin;
    parsed.tensors.push_back(std::move(record.entry));
  }
  return parsed;
}

// Name to file, from model.safetensors.index.json.
std::map<std::string, std::string, std::less<>> read_index(const std::string& path) {
  std::map<std::string, std::string, std::less<>> shard_of;
  json::value index;
  try {
    index = json::parse(read_file(path, kMaxIndexBytes), 16);
  } catch (const Error& error) {
    std::string where = error.message().find(path) == std::string::npos ? path + ": " : "";
    fail(error.code(), "{}{}", where, error.message());
  }
  const json::value* weight_map = index.is_object() ? json::find(index.get_object(), "weight_map") : nullptr;
  if (weight_map == nullptr || !weight_map->is_object() || weight_map->get_object().empty()) {
    fail(Code::kInvalidArgument,
         "{}: it has no object 'weight_map' of tensor names and files; download it again", path);
  }
  for (const auto& member : weight_map->get_object()) {
    std::string file = member.value().is_string() ? std::string(member.value().get_string()) : "";
    // Shards lie beside the index; nothing in a downloaded file may name another place.
    if (file.empty() || file == "." || file == ".." ||
        file.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      fail(Code::kInvalidArgument,
           "{}: 'weight_map' entry {} must be the name of a file in the same folder, not {}", path,
           quote(member.key()), quote(json::serialize(member.value())));
    }
    shard_of.emplace(std::string(member.key()), std::move(file));
  }
  return shard_of;
}

std::vector<std::string> list_shards(const std::string& index_path, const std::filesystem::path& folder,
                                     const std::map<std::string, std::string, std::less<>>& shard_of) {
  static constexpr size_t kMaxNamed = 5;
  std::vector<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.push_back(shard);
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  std::string missing;
  size_t num_missing = 0;
  for (const std::string& shard : shards) {
    std::error_code ignored;
    if (std::filesystem::exists(folder / shard, ignored)) continue;
    if (++num_missing <= kMaxNamed) missing += (missing.empty() ? "" : ", ") + shard;
  }
  if (num_missing > kMaxNamed) missing += fmt::format(" and {} more", num_missing - kMaxNamed);
  if (num_missing > 0) {
    fail(Code::kNotFound, "{}: {} of the {} files that it names are missing beside it: {}; download them",
         index_path, num_missing, shards.size(), missing);
  }
  return shards;
}

std::unique_ptr<WeightFile> open_sharded(const std::string& path, const std::string& index_path) {
  auto shard_of = read_index(index_path);
  std::filesystem::path folder = std::filesystem::path(index_path).parent_path();
  ParsedFile whole;
  std::vector<MappedFile> files;
  std::unordered_set<std::string> found;
  for (const std::string& shard : list_shards(index_path, folder, shard_of)) {
    MappedFile& file = files.emplace_back((folder / shard).string());
    ParsedFile part = parse(file.path(), file.bytes());
    for (TensorEntry& entry : part.tensors) {
      auto listed = shard_of.find(entry.name);
      if (listed != shard_of.end() && listed->second != shard) continue;  // the index prefers another shard's
      if (listed != shard_of.end()) found.insert(entry.name);
      whole.tensors.push_back(std::move(entry));
    }
    whole.metadata.values.merge(part.metadata.values);
  }
  for (const auto& [name, shard] : shard_of) {
    if (found.count(name) == 0) {
      fail(Code::kInvalidArgument,
           "{}: 'weight_map' says that tensor {} is in {}, but it is not; the files do not belong "
           "together: download them again",
           index_path, quote(name), shard);
    }
  }
  whole.metadata.source = index_path;
  whole.description = fmt::format("safetensors, {} shard{}", files.size(), files.size() == 1 ? "" : "s");
  return std::make_unique<MappedWeights>(path, "safetensors", std::move(whole), std::move(files));
}

std::unique_ptr<WeightFile> open_one(const std::string& path, const std::string& file_path) {
  std::vector<MappedFile> files;
  files.emplace_back(file_path);
  ParsedFile parsed = parse(file_path, files[0].bytes());
  return std::make_unique<MappedWeights>(path, "safetensors", std::move(parsed), std::move(files));
}

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::unique_ptr<WeightFile> parse_safetensors(std::string name, std::span<const uint8_t> bytes) {
  ParsedFile parsed = parse(name, bytes);
  return std::make_unique<MappedWeights>(std::move(name), "safetensors", std::move(parsed),
                                         std::vector<MappedFile>());
}

std::unique_ptr<WeightFile> open_safetensors(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    return ends_with(path, ".index.json") ? open_sharded(path, path) : open_one(path, path);
  }
  fs::path single = fs::path(path) / "model.safetensors",
           index = fs::path(path) / "model.safetensors.index.json";
  if (fs::exists(single, error)) return open_one(path, single.string());
  if (fs::exists(index, error)) return open_sharded(path, index.string());
  std::vector<std::string> others;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (ends_with(entry.path().filename().string(), ".safetensors")) others.push_back(entry.path().string());
  }
  if (others.size() == 1) return open_one(path, others[0]);
  fail(Code::kNotFound, "{}: the folder has no model.safetensors and no model.safetensors.index.json{}", path,
       others.empty() ? ""
                      : fmt::format(", but {} other .safetensors files; name one of them", others.size()));
}

}  // namespace sluice::formats
