#include "formats/inflate.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace sluice::formats {
namespace {

constexpr int kMaxBits = 15;  // of a code

// Canonical Huffman codes: how many there are of each length, and their symbols in the order of the codes.
struct Codes {
  std::array<uint16_t, kMaxBits + 1> counts{};
  std::array<uint16_t, 288> symbols{};
};

class Inflater {
 public:
  Inflater(std::span<const uint8_t> in, size_t size, const std::string& what) : in_(in), size_(size), what_(what) {
    // Nothing is reserved for a size that the stream cannot reach: a byte of it gives at most 1032.
    out_.reserve(std::min(size, in.size() * 1032 + 64));
  }

  std::vector<uint8_t> run() {
    for (bool is_last = false; !is_last;) {
      is_last = take(1) != 0;
      switch (take(2)) {
        case 0: copy_stored(); break;
        case 1: read_block(fixed_literals(), fixed_distances()); break;
        case 2: read_dynamic(); break;
        default: damaged("a block of unknown type");
      }
    }
    if (out_.size() != size_) damaged("it holds fewer bytes than the file says");
    return std::move(out_);
  }

 private:
  [[noreturn]] void damaged(const char* problem) const {
    fail(Code::kDataLoss, "{}: the compressed data is damaged: {}", what_, problem);
  }

  uint32_t take(int count) {
    while (num_bits_ < count) {
      if (at_ == in_.size()) damaged("it ends too early");
      bits_ |= static_cast<uint64_t>(in_[at_++]) << num_bits_;
      num_bits_ += 8;
    }
    const auto value = static_cast<uint32_t>(bits_ & ((uint64_t{1} << count) - 1));
    bits_ >>= count;
    num_bits_ -= count;
    return value;
  }

  void put(uint8_t byte) {
    if (out_.size() == size_) damaged("it holds more bytes than the file says");
    out_.push_back(byte);
  }

  void copy_stored() {
    bits_ = 0, num_bits_ = 0;  // what is left of a byte; whole bytes are never ahead
    if (in_.size() - at_ < 4) damaged("it ends too early");
    const size_t length = in_[at_] | in_[at_ + 1] << 8, check = in_[at_ + 2] | in_[at_ + 3] << 8;
    at_ += 4;
    if ((length ^ check) != 0xffff) damaged("the length of a block does not match its complement");
    if (in_.size() - at_ < length) damaged("it ends too early");
    if (size_ - out_.size() < length) damaged("it holds more bytes than the file says");
    out_.insert(out_.end(), in_.begin() + static_cast<std::ptrdiff_t>(at_),
                in_.begin() + static_cast<std::ptrdiff_t>(at_ + length));
    at_ += length;
  }

  Codes make_codes(std::span<const uint8_t> lengths) const {
    Codes codes;
    for (const uint8_t length : lengths) ++codes.counts[length];
    codes.counts[0] = 0;
    int left = 1;  // codes of this length that are not taken
    std::array<uint16_t, kMaxBits + 2> first{};
    for (int length = 1; length <= kMaxBits; ++length) {
      left = 2 * left - codes.counts[static_cast<size_t>(length)];
      if (left < 0) damaged("more codes than there can be");
      first[static_cast<size_t>(length) + 1] =
          static_cast<uint16_t>(first[static_cast<size_t>(length)] + codes.counts[static_cast<size_t>(length)]);
    }
    for (size_t symbol = 0; symbol < lengths.size(); ++symbol) {
      if (lengths[symbol] != 0) codes.symbols[first[lengths[symbol]]++] = static_cast<uint16_t>(symbol);
    }
    return codes;
  }

  int decode(const Codes& codes) {
    int code = 0, first = 0, index = 0;
    for (size_t length = 1; length <= kMaxBits; ++length) {
      code |= static_cast<int>(take(1));
      const int count = codes.counts[length];
      if (code - count < first) return codes.symbols[static_cast<size_t>(index + code - first)];
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    damaged("a code that no symbol has");
  }

  const Codes& fixed_literals() {
    static const Codes codes = [this] {
      std::array<uint8_t, 288> lengths{};
      for (size_t i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
      return make_codes(lengths);
    }();
    return codes;
  }
  const Codes& fixed_distances() {
    static const Codes codes = [this] {
      std::array<uint8_t, 30> lengths{};
      lengths.fill(5);
      return make_codes(lengths);
    }();
    return codes;
  }

  void read_dynamic() {
    static constexpr uint8_t kOrder[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    const size_t num_literals = take(5) + 257, num_distances = take(5) + 1, num_lengths = take(4) + 4;
    if (num_literals > 286 || num_distances > 30) damaged("more codes than there are symbols");
    std::array<uint8_t, 19> of_lengths{};
    for (size_t i = 0; i < num_lengths; ++i) of_lengths[kOrder[i]] = static_cast<uint8_t>(take(3));
    const Codes length_codes = make_codes(of_lengths);
    std::array<uint8_t, 286 + 30> lengths{};
    for (size_t i = 0; i < num_literals + num_distances;) {
      const int symbol = decode(length_codes);
      if (symbol < 16) {
        lengths[i++] = static_cast<uint8_t>(symbol);
        continue;
      }
      if (symbol == 16 && i == 0) damaged("a length that repeats nothing");
      const uint8_t value = symbol == 16 ? lengths[i - 1] : 0;
      const size_t count = symbol == 16 ? 3 + take(2) : symbol == 17 ? 3 + take(3) : 11 + take(7);
      if (count > num_literals + num_distances - i) damaged("more lengths than there are codes");
      std::fill_n(lengths.begin() + static_cast<std::ptrdiff_t>(i), count, value);
      i += count;
    }
    const std::span<const uint8_t> all(lengths);
    read_block(make_codes(all.subspan(0, num_literals)), make_codes(all.subspan(num_literals, num_distances)));
  }

  void read_block(const Codes& literals, const Codes& distances) {
    static constexpr uint16_t kLengths[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                              31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static constexpr uint8_t kLengthBits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                                2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static constexpr uint16_t kDistances[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                                33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                                1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    for (;;) {
      const int symbol = decode(literals);
      if (symbol == 256) return;
      if (symbol < 256) {
        put(static_cast<uint8_t>(symbol));
        continue;
      }
      const auto l = static_cast<size_t>(symbol - 257);
      if (l >= 29) damaged("a length that does not exist");
      const size_t length = kLengths[l] + take(kLengthBits[l]);
      const auto d = static_cast<size_t>(decode(distances));
      if (d >= 30) damaged("a distance that does not exist");
      const size_t distance = kDistances[d] + take(d < 4 ? 0 : static_cast<int>(d) / 2 - 1);
      if (distance > out_.size()) damaged("a distance beyond the beginning");
      for (size_t i = 0; i < length; ++i) put(out_[out_.size() - distance]);
    }
  }

  const std::span<const uint8_t> in_;
  const size_t size_;
  const std::string& what_;
  size_t at_ = 0;
  uint64_t bits_ = 0;
  int num_bits_ = 0;
  std::vector<uint8_t> out_;
};

}  // namespace

std::vector<uint8_t> inflate(std::span<const uint8_t> compressed, size_t size, const std::string& what) {
  return Inflater(compressed, size, what).run();
}

uint32_t crc32(std::span<const uint8_t> bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value & 1) != 0 ? 0xedb88320u ^ (value >> 1) : value >> 1;
      made[i] = value;
    }
    return made;
  }();
  uint32_t crc = 0xffffffffu;
  for (const uint8_t byte : bytes) crc = table[(crc ^ byte) & 0xff] ^ (crc >> 8);
  return ~crc;
}

}  // namespace sluice::formats
