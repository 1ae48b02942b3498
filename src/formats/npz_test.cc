#include "formats/npz.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "formats/inflate.h"

namespace sluice::formats {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// numpy.savez_compressed(images=(numpy.arange(600) % 37 / 8).astype("f4").reshape(50, 3, 4), ids=numpy.arange(-2, 3)).
constexpr const char* kCompressed =
    "504b030414000000080000002100b2c7544eb9000000e00900000a001400696d61676573"
    "2e6e707901001000e009000000000000b900000000000000edceb109c2501446e16b2756"
    "9696af7b1152045410114d25368a8da095069390424c4844041152585858082ee0088ee0"
    "088ee0088ee01137b013de85afb87f752ec3f160342dc84676da0fb245aa5b4ab7c3bab6"
    "950ee3749d7aab599cfac167ef79cb2c60cf222f09f8ad8663ab9aadea555bedd54f5792"
    "ef754472dc215d11051773e438e38a1bee78e08917c41529a28c0a142c3868c2451f234c"
    "304784045be438e08813ceae69324da6c9349926d3649a4cd33f37bd01504b0304140000"
    "00080000002100edadd77550000000a8000000070014006964732e6e707901001000a800"
    "00000000000050000000000000009bec17ea1b10c9c850c650ad9e925a9c5ca46ea5a06e"
    "9369a1aea3a09e965f54529498179f5f94920a12774bcc294e058a17672416a402f91aa6"
    "3a9a3a0ab50a1400ae7fff5101031430426926280d00504b010214031400000008000000"
    "2100b2c7544eb9000000e00900000a0000000000000000000000800100000000696d6167"
    "65732e6e7079504b0102140314000000080000002100edadd77550000000a80000000700"
    "000000000000000000008001f50000006964732e6e7079504b050600000000020002006d"
    "0000007e0100000000";

std::string from_hex(const char* hex) {
  std::string bytes;
  for (; *hex != 0; hex += 2) bytes += static_cast<char>(std::stoi(std::string(hex, 2), nullptr, 16));
  return bytes;
}

std::string write_file(const std::string& bytes) {
  const std::string path = testing::TempDir() + "npz_test_" + std::to_string(::getpid());
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

std::string make_npy(const std::string& header, const std::string& data) {
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() % 256);
  bytes += static_cast<char>(header.size() / 256);
  return bytes + header + data;
}

std::string error_of(const std::string& bytes, const std::string& name = "") {
  try {
    const NumpyFile file(write_file(bytes));
    file.read(name);
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

template <typename T>
T element(const NumpyArray& array, size_t i) {
  T value;
  std::memcpy(&value, array.data.data() + i * sizeof(T), sizeof value);
  return value;
}

TEST(Npz, CompressedFile) {
  const NumpyFile file(write_file(from_hex(kCompressed)));
  EXPECT_THAT(file.names(), ElementsAre("images", "ids"));
  const NumpyArray images = file.read("images"), ids = file.read("ids");
  EXPECT_EQ(images.type, "f4");
  EXPECT_THAT(images.shape, ElementsAre(50, 3, 4));
  for (size_t i = 0; i < 600; ++i) ASSERT_EQ(element<float>(images, i), static_cast<float>(i % 37) / 8);
  EXPECT_EQ(ids.type, "i8");
  EXPECT_EQ(element<int64_t>(ids, 0), -2);
  EXPECT_EQ(element<int64_t>(ids, 4), 2);
}

TEST(Npz, SingleArray) {
  const std::string npy = make_npy("{'descr': '<i2', 'fortran_order': False, 'shape': (3,), }\n",
                                   std::string("\x01\x00\x02\x00\xff\xff", 6));
  const NumpyFile file(write_file(npy));
  EXPECT_THAT(file.names(), ElementsAre(""));
  EXPECT_EQ(element<int16_t>(file.read(""), 2), -1);
  EXPECT_THAT(error_of(npy, "x"), HasSubstr("has no array 'x'"));
}

TEST(Npz, RefusesWhatItCannotRead) {
  const std::string data(64, '\0');
  auto header = [&](const std::string& type, const std::string& order, const std::string& shape) {
    return make_npy("{'descr': " + type + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }\n", data);
  };
  EXPECT_EQ(error_of(header("'<f4'", "False", "(2, 8)")), "");
  EXPECT_EQ(error_of(header("'|b1'", "False", "()")), "");
  EXPECT_EQ(error_of(header("'<f4'", "True", "(1, 8)")), "");
  EXPECT_THAT(error_of(header("'<f4'", "True", "(2, 8)")), HasSubstr("Fortran order"));
  EXPECT_THAT(error_of(header("'>f4'", "False", "(2, 8)")), HasSubstr("little-endian"));
  EXPECT_THAT(error_of(header("'<U7'", "False", "(2,)")), HasSubstr("'<U7' is not supported"));
  EXPECT_THAT(error_of(header("[('a', '<f4')]", "False", "(2,)")), HasSubstr("records"));
  EXPECT_THAT(error_of(header("'<f4'", "False", "(2, 9)")), HasSubstr("should have 72 bytes, but only 64"));
  EXPECT_THAT(error_of(header("'<f4'", "False", "(4294967296, 4294967296)")), HasSubstr("too large"));
  EXPECT_THAT(error_of(header("'<f4'", "False", "(99999999999999999999, )")), HasSubstr("too large"));
  EXPECT_THAT(error_of(header("'<f4'", "False", "(-1, 2)")), HasSubstr("cannot be read"));
  EXPECT_THAT(error_of(header("'<f4'", "False", "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)")), HasSubstr("17 dimensions"));
  EXPECT_THAT(error_of(make_npy("{}", "")), HasSubstr("no 'descr'"));
  EXPECT_THAT(error_of("what is this"), HasSubstr("neither an .npy nor an .npz"));
  EXPECT_THAT(error_of(std::string("\x93NUMPY\x09\x00xx", 10)), HasSubstr("version 9"));
}

// Any byte changed and any length cut: an error or other numbers, but nothing worse.
TEST(Npz, DamagedFiles) {
  const std::string whole = from_hex(kCompressed);
  int num_errors = 0;
  for (size_t length = 4; length < whole.size(); length += 7)
    num_errors += error_of(whole.substr(0, length), "ids").empty() ? 0 : 1;
  EXPECT_GT(num_errors, static_cast<int>(whole.size() / 8));
  for (size_t at = 4; at < whole.size(); ++at) {
    for (const char change : {'\x01', '\x80', '\xff'}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ change);
      error_of(damaged, "images");
    }
  }
}

TEST(Inflate, BlocksOfAllKinds) {
  auto run = [](const std::string& hex, size_t size) {
    const std::string bytes = from_hex(hex.c_str());
    const std::vector<uint8_t> out =
        inflate({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, size, "test");
    return std::string(out.begin(), out.end());
  };
  auto message = [&](const std::string& hex, size_t size) {
    try {
      run(hex, size);
    } catch (const Error& error) {
      return error.message();
    }
    return std::string();
  };
  EXPECT_EQ(run("010500faff68656c6c6f", 5), "hello");        // stored
  EXPECT_EQ(run("cb48cdc9c957c8409000", 17), "hello hello hello");  // fixed codes
  EXPECT_THAT(message("010500faff68656c6c6f", 4), HasSubstr("more bytes"));
  EXPECT_THAT(message("010500faff68656c6c6f", 6), HasSubstr("fewer bytes"));
  EXPECT_THAT(message("010500faff6865", 5), HasSubstr("ends too early"));
  EXPECT_THAT(message("010500fbff68656c6c6f", 5), HasSubstr("complement"));
  EXPECT_THAT(message("07", 1), HasSubstr("unknown type"));
  EXPECT_EQ(crc32({reinterpret_cast<const uint8_t*>("123456789"), 9}), 0xcbf43926u);
}

}  // namespace
}  // namespace sluice::formats
