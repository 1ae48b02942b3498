// Decompression of DEFLATE (RFC 1951), as zip files hold it.
//
// For files of arrays that NumPy wrote compressed; there is no compressor. The size of the result is known beforehand
// from the zip file's directory, so memory is bounded by what the caller asks for. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sluice::formats {

// Exactly `size` bytes. Throws Error (kDataLoss), naming `what`, if the stream is damaged or gives another size.
std::vector<uint8_t> inflate(std::span<const uint8_t> compressed, size_t size, const std::string& what);
// Of zip files and PNG.
uint32_t crc32(std::span<const uint8_t> bytes);

}  // namespace sluice::formats
