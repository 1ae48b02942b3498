// Files of arrays as NumPy writes them: .npy (one array) and .npz (a zip file of them, stored or compressed).
//
// The file is mapped; an array is read when it is asked for: a stored one lies in the file, a compressed one is
// inflated into memory of its own. Types are NumPy's little-endian ones, arrays in C order. Files may come from
// anywhere: sizes are checked against the file before anything is allocated. Any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mmap.h"

namespace sluice::formats {

struct NumpyArray {
  std::string type;               // "f4", "i8", "u1", "b1": kind and bytes of an element
  std::vector<int64_t> shape;
  std::span<const uint8_t> data;  // the elements, in C order, not aligned
  std::shared_ptr<const void> keeper;

  int64_t element_bytes() const;
};

class NumpyFile {
 public:
  // Throws Error naming the file: not found, neither .npy nor .npz, damaged.
  explicit NumpyFile(const std::string& path);

  const std::string& path() const { return file_->path(); }
  // Without ".npy"; of a .npy file one, "".
  const std::vector<std::string>& names() const { return names_; }
  // Throws Error: no such array, damaged, an order or type that is not supported.
  NumpyArray read(const std::string& name) const;

 private:
  struct Entry {
    uint64_t at = 0, stored_bytes = 0, bytes = 0;
    uint32_t crc = 0;
    bool is_compressed = false;
  };
  void read_directory();
  std::span<const uint8_t> find_data(const Entry& entry, const std::string& what) const;

  std::shared_ptr<const MappedFile> file_;
  std::vector<std::string> names_;
  std::vector<Entry> entries_;
};

}  // namespace sluice::formats
