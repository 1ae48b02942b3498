// Pictures in files to pixels: the graph's door to libjpeg, libpng and libwebp. BMP, PNM and TIFF are read here.
//
// Gives what Pillow's convert("RGB") does, bit for bit where the same libraries stand behind both: colours as they
// are in the file, without gamma, colour profiles or the camera's orientation; transparency is dropped. Bytes come
// from anywhere: sizes are bounded before anything is allocated, and what is damaged is an Error. Any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::graph {

inline constexpr int64_t kMaxPixels = int64_t{1} << 27;

struct Image {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3]: red, green, blue
};

// Throws Error: not a picture of a known format, damaged or too large.
Image decode_image(std::span<const uint8_t> bytes);

}  // namespace sluice::graph
