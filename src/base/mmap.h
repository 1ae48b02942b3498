// A file mapped into memory, read-only. The bytes stay valid until the MappedFile is destroyed. Any thread may read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace sluice {

class MappedFile {
 public:
  // Throws Error (not found, permission denied, is a directory) naming the path.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // Gives back the memory of the whole pages in `part`, if it lies in this file: they are read again when touched.
  void release(std::span<const uint8_t> part) const;

 private:
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Reads a whole file of at most `max_bytes`; throws Error naming the path otherwise.
std::string read_file(const std::string& path, size_t max_bytes = size_t{1} << 30);

}  // namespace sluice
