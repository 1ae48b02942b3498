// A cursor over the bytes of one GGUF file. Every read is checked against what is left, every count against
// the bytes its elements need at least, and all that is copied out is charged to a budget, so that a number
// in the file never allocates more than the file's own size times a small constant, nor more than the budget.
// Errors name the file, the item being read (set with at()) and what to do. Used by gguf.cc only.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace sluice::formats {

class GgufReader {
 public:
  // Tokens, merges and templates of the largest vocabularies take about 50 MB.
  static constexpr uint64_t kMaxCopiedBytes = uint64_t{512} << 20;

  GgufReader(const std::string& path, std::span<const uint8_t> bytes) : path_(path), bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t size() const { return bytes_.size(); }
  uint64_t remaining() const { return bytes_.size() - position_; }

  // What the following reads belong to, for messages: "metadata key 'a.b'".
  void at(std::string item) { item_ = std::move(item); }

  template <typename... Args>
  [[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) const {
    std::string what = fmt::format(format, std::forward<Args>(args)...);
    fail(Code::kInvalidArgument, "{}: {}{}{}", path_, item_, item_.empty() ? "" : ": ", what);
  }

  // Little-endian, as every machine sluice runs on.
  template <typename T>
  T read(const char* what) {
    if (remaining() < sizeof(T)) {
      fail_here("the file ends at byte {}, inside {}; it is truncated: download or convert it again", size(),
                what);
    }
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  // The bytes stay in the file; copying them out is charged by the caller.
  std::string_view read_string(const char* what, uint64_t max_bytes) {
    uint64_t start = position_;
    uint64_t length = read<uint64_t>(what);
    if (length > remaining()) {
      fail_here(
          "the {} at byte {} claims {} bytes and {} are left; the file is truncated or damaged: download "
          "or convert it again",
          what, start, length, remaining());
    }
    if (length > max_bytes) {
      fail_here("the {} at byte {} has {} bytes, the limit is {}", what, start, length, max_bytes);
    }
    std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + position_, length);
    position_ += length;
    return text;
  }

  // REQUIRES: bytes_each > 0. `count` elements of at least that many bytes must be left.
  void check_count(uint64_t count, uint64_t bytes_each, const char* what) const {
    if (count > remaining() / bytes_each) {
      fail_here(
          "{} {} cannot fit in the {} bytes that are left; the file is truncated or damaged: download or "
          "convert it again",
          count, what, remaining());
    }
  }

  void charge(uint64_t num_bytes) {
    // Callers charge less than 2^9 times the file's size, so this cannot wrap.
    copied_bytes_ += num_bytes;
    if (copied_bytes_ > kMaxCopiedBytes) {
      fail_here("the header would take more than {} MiB of memory; the file is damaged",
                kMaxCopiedBytes >> 20);
    }
  }

 private:
  const std::string& path_;
  const std::span<const uint8_t> bytes_;
  uint64_t position_ = 0;
  uint64_t copied_bytes_ = 0;
  std::string item_;
};

}  // namespace sluice::formats
