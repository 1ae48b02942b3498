#include "graph/image.h"

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jpeglib.h>
#include <png.h>
#include <webp/decode.h>

#include <algorithm>
#include <memory>
#include <string_view>

#include "base/error.h"

namespace sluice::graph {
namespace {

[[noreturn]] void fail_image(const char* format, std::string_view what) {
  fail(Code::kInvalidArgument, "cannot decode a {} picture: {}", format, what);
}

Image make_image(const char* format, int64_t width, int64_t height) {
  if (width < 1 || height < 1 || width > kMaxPixels || height > kMaxPixels || width * height > kMaxPixels) {
    fail_image(format, fmt::format("{} x {} pixels; it has to have 1 to {}", width, height, kMaxPixels));
  }
  return {.height = height, .width = width, .pixels = std::vector<uint8_t>(static_cast<size_t>(width * height * 3))};
}

// Numbers of a file, either byte order. Reading beyond its end is an Error.
class Reader {
 public:
  Reader(const char* format, std::span<const uint8_t> bytes, bool is_big_endian)
      : format_(format), bytes_(bytes), is_big_(is_big_endian) {}
  uint32_t read(uint64_t at, int size) const {
    const std::span<const uint8_t> from = slice(at, static_cast<uint64_t>(size));
    uint32_t value = 0;
    for (int i = 0; i < size; ++i) {
      value |= static_cast<uint32_t>(from[static_cast<size_t>(i)]) << 8 * (is_big_ ? size - 1 - i : i);
    }
    return value;
  }
  std::span<const uint8_t> slice(uint64_t at, uint64_t count) const {
    if (at > bytes_.size() || count > bytes_.size() - at) fail_image(format_, "it ends too early");
    return bytes_.subspan(at, count);
  }

 private:
  const char* format_;
  std::span<const uint8_t> bytes_;
  bool is_big_;
};

// Windows bitmaps without compression, of 1, 4, 8, 24 or 32 bits.
Image decode_bmp(std::span<const uint8_t> bytes) {
  const Reader file("BMP", bytes, /*is_big_endian=*/false);
  const uint32_t pixels_at = file.read(10, 4), header_bytes = file.read(14, 4);
  if (header_bytes < 40) fail_image("BMP", fmt::format("a header of {} bytes is not supported", header_bytes));
  const auto width = static_cast<int32_t>(file.read(18, 4)), signed_height = static_cast<int32_t>(file.read(22, 4));
  const int64_t height = std::abs(static_cast<int64_t>(signed_height));
  const uint32_t bits = file.read(28, 2), compression = file.read(30, 4);
  const bool has_known_bits = bits == 1 || bits == 4 || bits == 8 || bits == 24 || bits == 32;
  constexpr uint32_t kBitFields = 3;
  if (!has_known_bits || (compression != 0 && !(compression == kBitFields && bits == 32))) {
    fail_image("BMP", fmt::format("{} bits a pixel with compression {} are not supported", bits, compression));
  }
  if (compression == kBitFields &&
      (file.read(54, 4) != 0xFF0000 || file.read(58, 4) != 0xFF00 || file.read(62, 4) != 0xFF)) {
    fail_image("BMP", "its channels are in another order than blue, green, red");
  }
  Image image = make_image("BMP", width, height);
  const uint64_t palette_at = 14 + static_cast<uint64_t>(header_bytes),
                 row_bytes = (static_cast<uint64_t>(width) * bits + 31) / 32 * 4;
  for (int64_t y = 0; y < height; ++y) {
    const int64_t stored = signed_height > 0 ? height - 1 - y : y;  // bottom up unless the height is negative
    const std::span<const uint8_t> row = file.slice(pixels_at + static_cast<uint64_t>(stored) * row_bytes, row_bytes);
    uint8_t* to = image.pixels.data() + y * width * 3;
    for (int64_t x = 0; x < width; ++x, to += 3) {
      std::span<const uint8_t> colour;
      if (bits >= 24) {
        colour = row.subspan(static_cast<size_t>(x) * bits / 8, 3);
      } else {
        const uint64_t bit = static_cast<uint64_t>(x) * bits;
        const uint32_t index = row[bit / 8] >> (8 - bits - bit % 8) & ((1u << bits) - 1);
        colour = file.slice(palette_at + index * 4, 3);
      }
      std::reverse_copy(colour.begin(), colour.end(), to);
    }
  }
  return image;
}

// P1 to P6: bits, grey and colour, as text or binary, 8 or 16 bits a channel.
Image decode_pnm(std::span<const uint8_t> bytes) {
  size_t at = 2;
  const int kind = bytes[1] - '0';
  auto read_number = [&](bool is_bit) {
    for (; at < bytes.size(); ++at) {
      if (bytes[at] == '#') {
        while (at < bytes.size() && bytes[at] != '\n') ++at;
      } else if (!std::isspace(bytes[at])) {
        break;
      }
      if (at >= bytes.size()) break;
    }
    int64_t number = 0;
    const size_t begin = at;
    while (at < bytes.size() && bytes[at] >= '0' && bytes[at] <= '9' && number < kMaxPixels &&
           !(is_bit && at > begin)) {
      number = number * 10 + (bytes[at++] - '0');
    }
    if (at == begin) fail_image("PNM", "a number is missing");
    return number;
  };
  const int64_t width = read_number(false), height = read_number(false);
  const bool is_bits = kind == 1 || kind == 4, is_binary = kind >= 4;
  const int num_channels = kind == 3 || kind == 6 ? 3 : 1;
  const int64_t largest = is_bits ? 1 : read_number(false);
  if (largest < 1 || largest > 65535) fail_image("PNM", fmt::format("a largest value of {}", largest));
  Image image = make_image("PNM", width, height);
  if (is_binary) ++at;  // one white space after the header
  const int64_t channel_bytes = largest > 255 ? 2 : 1, bits_row_bytes = (width + 7) / 8;
  const Reader file("PNM", bytes, /*is_big_endian=*/true);
  std::span<const uint8_t> raster;
  if (is_binary) {
    raster = file.slice(
        at, static_cast<uint64_t>(kind == 4 ? bits_row_bytes * height : width * height * num_channels * channel_bytes));
  }
  uint8_t* to = image.pixels.data();
  for (int64_t i = 0; i < width * height; ++i) {
    for (int c = 0; c < num_channels; ++c) {
      int64_t value;
      if (kind == 4) {
        value = raster[static_cast<size_t>(i / width * bits_row_bytes + i % width / 8)] >> (7 - i % width % 8) & 1;
      } else if (is_binary) {
        const auto place = static_cast<size_t>(i * num_channels + c) * static_cast<size_t>(channel_bytes);
        value = channel_bytes == 2 ? raster[place] << 8 | raster[place + 1] : raster[place];
      } else {
        value = read_number(is_bits);
      }
      if (is_bits) value = 1 - std::min<int64_t>(value, 1);  // 1 is black
      *to++ = static_cast<uint8_t>(std::min(value, largest) * 255 / largest);
    }
    for (int c = num_channels; c < 3; ++c, ++to) *to = to[-1];
  }
  return image;
}

// Baseline TIFF in strips without compression: grey, palette or colour, 8 bits a channel, channels together.
Image decode_tiff(std::span<const uint8_t> bytes) {
  const bool is_big = bytes[0] == 'M';
  const Reader file("TIFF", bytes, is_big);
  const uint64_t directory = file.read(4, 4);
  const uint32_t num_fields = file.read(directory, 2);
  // The values of a field, from where they are; shorts and longs.
  auto find_values = [&](uint32_t wanted) {
    std::vector<uint32_t> values;
    for (uint32_t i = 0; i < num_fields; ++i) {
      const uint64_t at = directory + 2 + 12 * static_cast<uint64_t>(i);
      if (file.read(at, 2) != wanted) continue;
      const uint32_t type = file.read(at + 2, 2), count = file.read(at + 4, 4);
      const int size = type == 3 ? 2 : type == 4 ? 4 : 1;
      const uint64_t total = static_cast<uint64_t>(count) * static_cast<uint64_t>(size);
      const uint64_t from = total > 4 ? file.read(at + 8, 4) : at + 8;
      file.slice(from, total);
      for (uint64_t k = 0; k < count; ++k) values.push_back(file.read(from + k * static_cast<uint64_t>(size), size));
      break;
    }
    return values;
  };
  auto get_value = [&](uint32_t field, uint32_t otherwise) {
    const std::vector<uint32_t> values = find_values(field);
    return values.empty() ? otherwise : values.front();
  };
  const uint32_t compression = get_value(259, 1), photometric = get_value(262, 1), num_channels = get_value(277, 1);
  const std::vector<uint32_t> bits = find_values(258), offsets = find_values(273);
  const bool has_8_bits = !bits.empty() && std::all_of(bits.begin(), bits.end(), [](uint32_t b) { return b == 8; });
  const bool is_colour = photometric == 2 && num_channels >= 3 && num_channels <= 4;
  const bool is_single =
      (photometric == 0 || photometric == 1 || photometric == 3) && num_channels >= 1 && num_channels <= 2;
  if (compression != 1 || !has_8_bits || get_value(284, 1) != 1 || (!is_colour && !is_single) || offsets.empty()) {
    fail_image("TIFF", "only grey, palette and RGB of 8 bits in strips without compression are supported");
  }
  Image image = make_image("TIFF", get_value(256, 0), get_value(257, 0));
  const std::vector<uint32_t> palette = find_values(320);
  if (photometric == 3 && palette.size() != 768) fail_image("TIFF", "its palette has no 256 colours");
  const uint64_t rows_per_strip = std::max<uint64_t>(1, get_value(278, UINT32_MAX));
  const auto width = static_cast<uint64_t>(image.width), row_bytes = width * num_channels;
  uint8_t* to = image.pixels.data();
  for (uint64_t y = 0; y < static_cast<uint64_t>(image.height); ++y) {
    const uint64_t strip = y / rows_per_strip;
    if (strip >= offsets.size()) fail_image("TIFF", "a strip is missing");
    const std::span<const uint8_t> row = file.slice(offsets[strip] + y % rows_per_strip * row_bytes, row_bytes);
    for (uint64_t x = 0; x < width; ++x) {
      const uint8_t value = row[x * num_channels];
      for (uint64_t c = 0; c < 3; ++c) {
        *to++ = is_colour          ? row[x * num_channels + c]
                : photometric == 3 ? static_cast<uint8_t>(palette[c * 256 + value] >> 8)
                                   : static_cast<uint8_t>(photometric == 0 ? 255 - value : value);
      }
    }
  }
  return image;
}

// libjpeg and libpng leave by longjmp; the functions it goes back to hold nothing that has to be destroyed.

struct JpegErrors {
  jpeg_error_mgr manager;
  std::jmp_buf back;
  char message[JMSG_LENGTH_MAX] = "";
};

[[noreturn]] void leave_jpeg(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  errors->manager.format_message(info, errors->message);
  std::longjmp(errors->back, 1);
}

bool start_jpeg(jpeg_decompress_struct& info, JpegErrors& errors, std::span<const uint8_t> bytes) {
  if (setjmp(errors.back) != 0) return false;
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, bytes.data(), bytes.size());
  jpeg_read_header(&info, TRUE);
  return true;
}

bool read_jpeg(jpeg_decompress_struct& info, JpegErrors& errors, uint8_t* pixels) {
  if (setjmp(errors.back) != 0) return false;
  jpeg_start_decompress(&info);
  const size_t row_bytes = static_cast<size_t>(info.output_width) * static_cast<size_t>(info.output_components);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = pixels + info.output_scanline * row_bytes;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  return true;
}

Image decode_jpeg(std::span<const uint8_t> bytes) {
  jpeg_decompress_struct info{};
  JpegErrors errors{};
  info.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = leave_jpeg;
  errors.manager.output_message = [](j_common_ptr) {};
  const std::unique_ptr<jpeg_decompress_struct, void (*)(jpeg_decompress_struct*)> owner(&info,
                                                                                         jpeg_destroy_decompress);
  if (!start_jpeg(info, errors, bytes)) fail_image("JPEG", errors.message);
  if (info.num_components != 1 && info.num_components != 3) {
    fail_image("JPEG", fmt::format("{} components are not supported", info.num_components));
  }
  info.out_color_space = JCS_RGB;
  Image image = make_image("JPEG", info.image_width, info.image_height);
  if (!read_jpeg(info, errors, image.pixels.data())) fail_image("JPEG", errors.message);
  return image;
}

struct PngSource {
  std::span<const uint8_t> rest;
  std::jmp_buf back;
  char message[128] = "";
};

[[noreturn]] void leave_png(png_structp png, png_const_charp message) {
  auto* source = static_cast<PngSource*>(png_get_error_ptr(png));
  std::snprintf(source->message, sizeof source->message, "%s", message);
  std::longjmp(source->back, 1);
}

void read_png_bytes(png_structp png, png_bytep to, size_t count) {
  auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
  if (count > source->rest.size()) png_error(png, "it ends too early");
  std::memcpy(to, source->rest.data(), count);
  source->rest = source->rest.subspan(count);
}

bool start_png(png_structp png, png_infop info, PngSource& source) {
  if (setjmp(source.back) != 0) return false;
  png_set_read_fn(png, &source, read_png_bytes);
  png_read_info(png, info);
  png_set_expand(png);
  png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  return true;
}

bool read_png(png_structp png, PngSource& source, png_bytepp rows) {
  if (setjmp(source.back) != 0) return false;
  png_read_image(png, rows);
  return true;
}

Image decode_png(std::span<const uint8_t> bytes) {
  PngSource source{.rest = bytes};
  struct Handle {
    png_structp png = nullptr;
    png_infop info = nullptr;
    ~Handle() { png_destroy_read_struct(&png, &info, nullptr); }
  } handle;
  handle.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, leave_png, [](png_structp, png_const_charp) {});
  if (handle.png != nullptr) handle.info = png_create_info_struct(handle.png);
  if (handle.info == nullptr) fail(Code::kResourceExhausted, "no memory to decode a PNG picture");
  if (!start_png(handle.png, handle.info, source)) fail_image("PNG", source.message);
  Image image =
      make_image("PNG", png_get_image_width(handle.png, handle.info), png_get_image_height(handle.png, handle.info));
  if (png_get_rowbytes(handle.png, handle.info) != static_cast<size_t>(image.width) * 3) {
    fail_image("PNG", "it is not 8 bits a channel");
  }
  std::vector<png_bytep> rows;
  for (int64_t y = 0; y < image.height; ++y) rows.push_back(image.pixels.data() + y * image.width * 3);
  if (!read_png(handle.png, source, rows.data())) fail_image("PNG", source.message);
  return image;
}

Image decode_webp(std::span<const uint8_t> bytes) {
  int width = 0, height = 0;
  if (WebPGetInfo(bytes.data(), bytes.size(), &width, &height) == 0) fail_image("WebP", "it is damaged");
  Image image = make_image("WebP", width, height);
  if (WebPDecodeRGBInto(bytes.data(), bytes.size(), image.pixels.data(), image.pixels.size(), width * 3) == nullptr) {
    fail_image("WebP", "it is damaged");
  }
  return image;
}

}  // namespace

Image decode_image(std::span<const uint8_t> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  using namespace std::string_view_literals;
  if (text.starts_with("\xFF\xD8\xFF"sv)) return decode_jpeg(bytes);
  if (text.starts_with("\x89PNG\r\n\x1A\n"sv)) return decode_png(bytes);
  if (text.starts_with("RIFF"sv) && text.substr(0, 12).ends_with("WEBP"sv)) return decode_webp(bytes);
  if (text.starts_with("BM"sv)) return decode_bmp(bytes);
  if (text.starts_with("II*\0"sv) || text.starts_with("MM\0*"sv)) return decode_tiff(bytes);
  if (text.size() > 2 && text[0] == 'P' && text[1] >= '1' && text[1] <= '6') return decode_pnm(bytes);
  if (text.starts_with("\0\0\0\x0CjP  "sv) || text.starts_with("\xFF\x4F\xFF\x51"sv)) {
    fail(Code::kUnimplemented, "JPEG 2000 pictures are not supported; known are JPEG, PNG, WebP, BMP, TIFF and PNM");
  }
  fail(Code::kInvalidArgument, "{} bytes are no picture of a known format: JPEG, PNG, WebP, BMP, TIFF or PNM",
       bytes.size());
}

}  // namespace sluice::graph
