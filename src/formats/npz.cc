// The zip format is PKWARE's APPNOTE.TXT, with its 64-bit extension (NumPy writes that for every array); the array
// format is numpy.lib.format's, versions 1 to 3.
#include "formats/npz.h"

#include <algorithm>
#include <cctype>
#include <cstring>

#include "base/error.h"
#include "formats/inflate.h"

namespace sluice::formats {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kDirectoryHeader = 0x02014b50, kDirectoryEnd = 0x06054b50,
                   kDirectoryEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr size_t kMaxArrays = 1 << 16;
constexpr uint64_t kMaxInflatedBytes = uint64_t{1} << 33;

template <typename T>
T read_number(std::span<const uint8_t> bytes, uint64_t at, const std::string& what) {
  if (at > bytes.size() || bytes.size() - at < sizeof(T)) fail(Code::kDataLoss, "{}: the zip file is damaged", what);
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

bool has_magic(std::span<const uint8_t> bytes, std::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}
constexpr std::string_view kNumpyMagic = "\x93NUMPY", kZipMagic = "PK\x03\x04", kEmptyZipMagic = "PK\x05\x06";

// The text behind 'key': in the header, which is a Python dictionary.
std::string_view find_field(std::string_view header, std::string_view key, const std::string& what) {
  for (const char quote : {'\'', '"'}) {
    const std::string quoted = quote + std::string(key) + quote;
    const size_t at = header.find(quoted);
    if (at == std::string_view::npos) continue;
    std::string_view rest = header.substr(at + quoted.size());
    const size_t begin = rest.find_first_not_of(" :");
    if (begin != std::string_view::npos) return rest.substr(begin);
  }
  fail(Code::kDataLoss, "{}: the header of the array has no '{}'", what, key);
}

std::vector<int64_t> read_shape(std::string_view text, const std::string& what) {
  const size_t end = text.find(')');
  if (text.empty() || text[0] != '(' || end == std::string_view::npos)
    fail(Code::kDataLoss, "{}: the shape of the array cannot be read", what);
  std::vector<int64_t> shape;
  int64_t number = 0;
  bool has_digits = false;
  for (const char c : text.substr(1, end)) {
    if (c >= '0' && c <= '9') {
      has_digits = true;
      if (__builtin_mul_overflow(number, int64_t{10}, &number) || __builtin_add_overflow(number, c - '0', &number))
        fail(Code::kDataLoss, "{}: a dimension of the array is too large", what);
    } else if (c == ',' || c == ')') {
      if (has_digits) shape.push_back(number);
      number = 0, has_digits = false;
    } else if (c != ' ' && c != 'L') {
      fail(Code::kDataLoss, "{}: the shape of the array cannot be read", what);
    }
  }
  if (shape.size() > 16)
    fail(Code::kDataLoss, "{}: an array of {} dimensions; at most 16 are supported", what, shape.size());
  return shape;
}

std::string read_type(std::string_view text, const std::string& what) {
  const char quote = text.empty() ? ' ' : text[0];
  const size_t end = text.find(quote, 1);
  const bool is_simple = (quote == '\'' || quote == '"') && end != std::string_view::npos && end == 4;
  if (!is_simple) {
    fail(Code::kInvalidArgument, "{}: arrays of records, strings or objects are not supported; save plain numbers",
         what);
  }
  const char order = text[1];
  const std::string type(text.substr(2, 2));
  const bool is_known = std::string_view("fiubc").find(type[0]) != std::string_view::npos &&
                        std::string_view("1248").find(type[1]) != std::string_view::npos && type != "f1";
  if (!is_known || (order == '>' && type[1] != '1')) {
    fail(Code::kInvalidArgument, "{}: an array of type '{}' is not supported; save little-endian floats or integers",
         what, text.substr(1, 3));
  }
  return type;
}

NumpyArray read_array(std::span<const uint8_t> bytes, std::shared_ptr<const void> keeper, const std::string& what) {
  if (!has_magic(bytes, kNumpyMagic) || bytes.size() < 10) fail(Code::kDataLoss, "{}: is no NumPy array", what);
  const uint8_t version = bytes[6];
  if (version < 1 || version > 3) fail(Code::kDataLoss, "{}: version {} of the format is not known", what, version);
  const size_t prefix = version == 1 ? 10 : 12;
  if (bytes.size() < prefix) fail(Code::kDataLoss, "{}: the array's header is cut off", what);
  const size_t length = version == 1 ? read_number<uint16_t>(bytes, 8, what) : read_number<uint32_t>(bytes, 8, what);
  if (bytes.size() - prefix < length) fail(Code::kDataLoss, "{}: the array's header is cut off", what);
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + prefix, length);

  NumpyArray array{.type = read_type(find_field(header, "descr", what), what),
                   .shape = read_shape(find_field(header, "shape", what), what), .data = bytes.subspan(prefix + length),
                   .keeper = std::move(keeper)};
  const size_t num_large = static_cast<size_t>(
      std::count_if(array.shape.begin(), array.shape.end(), [](int64_t dim) { return dim > 1; }));
  if (find_field(header, "fortran_order", what).starts_with("True") && num_large > 1)
    fail(Code::kInvalidArgument, "{}: the array is in Fortran order; save numpy.ascontiguousarray(x)", what);
  int64_t size = array.element_bytes();
  for (const int64_t dim : array.shape) {
    if (__builtin_mul_overflow(size, dim, &size)) fail(Code::kDataLoss, "{}: the array is too large", what);
  }
  if (static_cast<uint64_t>(size) > array.data.size()) {
    fail(Code::kDataLoss, "{}: the array should have {} bytes, but only {} are there: the file is cut off", what, size,
         array.data.size());
  }
  array.data = array.data.subspan(0, static_cast<size_t>(size));
  return array;
}

}  // namespace

int64_t NumpyArray::element_bytes() const { return type[1] - '0'; }

NumpyFile::NumpyFile(const std::string& path) : file_(std::make_shared<const MappedFile>(path)) {
  const std::span<const uint8_t> bytes = file_->bytes();
  if (has_magic(bytes, kNumpyMagic)) {
    names_ = {""};
    entries_ = {{.at = 0, .stored_bytes = bytes.size(), .bytes = bytes.size()}};
  } else if (has_magic(bytes, kZipMagic) || has_magic(bytes, kEmptyZipMagic)) {
    read_directory();
  } else {
    fail(Code::kInvalidArgument, "{}: is neither an .npy nor an .npz file", path);
  }
}

void NumpyFile::read_directory() {
  const std::span<const uint8_t> bytes = file_->bytes();
  // The end of the directory is the last 22 bytes, but for a comment.
  constexpr size_t kEndBytes = 22, kMaxComment = 65535;
  if (bytes.size() < kEndBytes) fail(Code::kDataLoss, "{}: the zip file is cut off", path());
  size_t end = bytes.size() - kEndBytes;
  const size_t stop = end > kMaxComment ? end - kMaxComment : 0;
  while (read_number<uint32_t>(bytes, end, path()) != kDirectoryEnd) {
    if (end == stop) fail(Code::kDataLoss, "{}: the zip file has no directory: it is cut off", path());
    --end;
  }
  uint64_t count = read_number<uint16_t>(bytes, end + 10, path()), at = read_number<uint32_t>(bytes, end + 16, path());
  if (end >= 20 && read_number<uint32_t>(bytes, end - 20, path()) == kLocator64) {
    const uint64_t end64 = read_number<uint64_t>(bytes, end - 12, path());
    if (read_number<uint32_t>(bytes, end64, path()) != kDirectoryEnd64)
      fail(Code::kDataLoss, "{}: the zip file's directory is damaged", path());
    if (bytes.size() - end64 < 56) fail(Code::kDataLoss, "{}: the zip file's directory is damaged", path());
    count = read_number<uint64_t>(bytes, end64 + 32, path());
    at = read_number<uint64_t>(bytes, end64 + 48, path());
  }
  if (count > kMaxArrays) fail(Code::kResourceExhausted, "{}: more than {} arrays", path(), kMaxArrays);
  for (uint64_t i = 0; i < count; ++i) {
    if (read_number<uint32_t>(bytes, at, path()) != kDirectoryHeader || bytes.size() - at < 46)
      fail(Code::kDataLoss, "{}: the zip file's directory is damaged", path());
    const auto flags = read_number<uint16_t>(bytes, at + 8, path());
    const auto method = read_number<uint16_t>(bytes, at + 10, path());
    Entry entry{.at = read_number<uint32_t>(bytes, at + 42, path()),
                .stored_bytes = read_number<uint32_t>(bytes, at + 20, path()),
                .bytes = read_number<uint32_t>(bytes, at + 24, path()),
                .crc = read_number<uint32_t>(bytes, at + 16, path()), .is_compressed = method == 8};
    const uint64_t name_bytes = read_number<uint16_t>(bytes, at + 28, path());
    const uint64_t extra_bytes = read_number<uint16_t>(bytes, at + 30, path());
    const uint64_t comment_bytes = read_number<uint16_t>(bytes, at + 32, path());
    if (bytes.size() - at - 46 < name_bytes + extra_bytes + comment_bytes)
      fail(Code::kDataLoss, "{}: the zip file's directory is damaged", path());
    std::string name(reinterpret_cast<const char*>(bytes.data()) + at + 46, name_bytes);
    // Numbers that do not fit into 32 bits follow in this order.
    for (uint64_t extra = at + 46 + name_bytes, last = extra + extra_bytes; last - extra >= 4;) {
      const auto id = read_number<uint16_t>(bytes, extra, path());
      const uint64_t length = read_number<uint16_t>(bytes, extra + 2, path());
      if (length > last - extra - 4) break;
      uint64_t field = extra + 4;
      for (uint64_t* number : {&entry.bytes, &entry.stored_bytes, &entry.at}) {
        if (id != 1 || *number != 0xffffffff || extra + 4 + length - field < 8) continue;
        *number = read_number<uint64_t>(bytes, field, path());
        field += 8;
      }
      extra += 4 + length;
    }
    at += 46 + name_bytes + extra_bytes + comment_bytes;
    if (!name.empty() && name.back() == '/') continue;  // a folder
    if ((flags & 1) != 0 || (method != 0 && method != 8))
      fail(Code::kInvalidArgument, "{}: '{}' is encrypted or compressed in a way that is not supported", path(), name);
    if (name.ends_with(".npy")) name.resize(name.size() - 4);
    names_.push_back(std::move(name));
    entries_.push_back(entry);
  }
}

std::span<const uint8_t> NumpyFile::find_data(const Entry& entry, const std::string& what) const {
  const std::span<const uint8_t> bytes = file_->bytes();
  if (names_.size() == 1 && names_[0].empty() && has_magic(bytes, kNumpyMagic)) return bytes;
  if (read_number<uint32_t>(bytes, entry.at, what) != kLocalHeader) fail(Code::kDataLoss, "{}: is damaged", what);
  const uint64_t skipped = 30 + uint64_t{read_number<uint16_t>(bytes, entry.at + 26, what)} +
                           read_number<uint16_t>(bytes, entry.at + 28, what);
  const uint64_t room = bytes.size() - entry.at;
  if (room < skipped || room - skipped < entry.stored_bytes) fail(Code::kDataLoss, "{}: the file is cut off", what);
  return bytes.subspan(entry.at + skipped, entry.stored_bytes);
}

NumpyArray NumpyFile::read(const std::string& name) const {
  const auto found = std::find(names_.begin(), names_.end(), name);
  if (found == names_.end()) fail(Code::kNotFound, "{}: has no array '{}'", path(), name);
  const Entry& entry = entries_[static_cast<size_t>(found - names_.begin())];
  const std::string what = name.empty() ? path() : path() + ": '" + name + "'";
  const std::span<const uint8_t> data = find_data(entry, what);
  if (!entry.is_compressed) return read_array(data, file_, what);
  if (entry.bytes > kMaxInflatedBytes)
    fail(Code::kResourceExhausted, "{}: {} bytes when it is inflated; save it without compression", what, entry.bytes);
  auto inflated = std::make_shared<const std::vector<uint8_t>>(inflate(data, entry.bytes, what));
  if (crc32(*inflated) != entry.crc) fail(Code::kDataLoss, "{}: the checksum is wrong: the file is damaged", what);
  const std::span<const uint8_t> bytes(*inflated);
  return read_array(bytes, std::move(inflated), what);
}

}  // namespace sluice::formats
