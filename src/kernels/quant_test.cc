// Conversions of every type and instruction set: the same values as scalar/, which is itself checked against files
// written by the format's own tool.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>

#include "base/test_data.h"
#include "kernels/isas_for_test.h"
#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

class Quant : public testing::TestWithParam<const char*> {
 protected:
  const Kernels table = make_tested_kernels(GetParam()), scalar = make_kernels("scalar");
  Random random{31};
};

TEST_P(Quant, DequantizesAsScalarDoes) {
  for (DType type : kWeightTypes) {
    const int64_t block = get_info(type).block_size;
    for (int64_t n : {block, 3 * block, 7 * block, 8 * block + (block == 1 ? 5 : 0)}) {
      std::vector<uint8_t> row = random_weights(type, 1, n, random);
      std::vector<float> expected(static_cast<size_t>(n + 1), 9), got(static_cast<size_t>(n + 1), 9);
      scalar.dequantize[static_cast<int>(type)](row.data(), expected.data(), n);
      table.dequantize[static_cast<int>(type)](row.data(), got.data(), n);
      for (size_t i = 0; i < got.size(); ++i) {
        // Equal but for the rounding that a fused multiply-add saves.
        ASSERT_NEAR(got[i], expected[i], 1e-7f * std::fabs(expected[i]) + 1e-9f) << name(type) << " element " << i;
      }
    }
  }
}

TEST_P(Quant, EveryByteAndHalfFloat) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  for (DType type : {DType::kF8E4M3, DType::kF16, DType::kBF16}) {
    std::vector<float> expected(65536), got(65536);
    scalar.dequantize[static_cast<int>(type)](halves.data(), expected.data(), 65536);
    table.dequantize[static_cast<int>(type)](halves.data(), got.data(), 65536);
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))) << name(type) << " " << i;
    }
  }
}

TEST_P(Quant, StoresTheSameBytesAsScalar) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<std::vector<float>> rows = {random_floats(256, random), random_floats(256, random, 1e-6f),
                                          random_floats(256, random, 1e4f), std::vector<float>(256, 0.0f)};
  std::vector<float> odd = random_floats(256, random);
  odd[3] = nan;
  odd[40] = inf;
  odd[70] = -inf;
  odd[100] = 70000;
  odd[130] = 1e-40f;
  rows.push_back(odd);
  for (const std::vector<float>& x : rows) {
    auto compare = [&](auto* expected_entry, auto* entry, size_t bytes, int64_t n, const std::string& what) {
      std::vector<uint8_t> expected(bytes + 1, 0xab), got(bytes + 1, 0xab);
      expected_entry(x.data(), expected.data(), n);
      entry(x.data(), got.data(), n);
      EXPECT_EQ(expected, got) << what;
    };
    for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
      int t = static_cast<int>(type);
      for (int64_t n : {256, 32, type == DType::kQ8_0 ? 64 : 77}) {
        compare(scalar.store_row[t], table.store_row[t], static_cast<size_t>(row_bytes(type, n)), n, name(type));
      }
    }
    for (int f = 0; f < kNumActivationFormats; ++f) {
      const auto format = static_cast<ActivationFormat>(f);
      for (int64_t n : {256, 32, format == ActivationFormat::kQ8_32 ? 64 : 77}) {
        ActivationBytes expected = convert_activations(scalar, format, x, 1, n);
        EXPECT_EQ(expected, convert_activations(table, format, x, 1, n)) << "activation format " << f << " of " << n;
      }
    }
  }
}

TEST(Activations, RoundTrip) {
  Random random(41);
  std::vector<float> x = random_floats(320, random);
  std::vector<BlockQ8_32> blocks(10);
  get_kernels().quantize_activations[static_cast<int>(ActivationFormat::kQ8_32)](x.data(), blocks.data(), 320);
  for (size_t b = 0; b < 10; ++b) {
    int sums[2] = {};
    for (size_t i = 0; i < 32; ++i) {
      sums[i / 16] += blocks[b].qs[i];
      float restored = blocks[b].scale * static_cast<float>(blocks[b].qs[i]);
      EXPECT_LE(std::fabs(restored - x[b * 32 + i]), blocks[b].scale * 0.5001f);
    }
    EXPECT_EQ(blocks[b].low_sum, blocks[b].scale * static_cast<float>(sums[0]));
    EXPECT_EQ(blocks[b].sum, blocks[b].scale * static_cast<float>(sums[0] + sums[1]));
  }
}

std::vector<const char*> isa_names() {
  IsaList isas = isas_to_test();
  return {isas.names, isas.names + isas.count};
}

INSTANTIATE_TEST_SUITE_P(All, Quant, testing::ValuesIn(isa_names()),
                         [](const auto& info) { return std::string(info.param); });

// Just enough of GGUF v3 to find the tensors of a file that is known to be good.
struct TestFile {
  struct Tensor {
    uint32_t type;
    int64_t count;
    uint64_t offset;
  };
  std::vector<char> bytes;
  std::map<std::string, Tensor> tensors;
  size_t at = 8, data = 0;

  template <typename T>
  T read() {
    T value;
    CHECK(at + sizeof value <= bytes.size());
    std::memcpy(&value, bytes.data() + at, sizeof value);
    at += sizeof value;
    return value;
  }
  std::string read_string() {
    auto size = static_cast<size_t>(read<uint64_t>());
    CHECK(at + size <= bytes.size());
    at += size;
    return std::string(bytes.data() + at - size, size);
  }
  void skip_value(uint32_t type) {
    constexpr size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) {
      read_string();
    } else if (type == 9) {
      auto element = read<uint32_t>();
      for (auto n = read<uint64_t>(); n > 0; --n) skip_value(element);
    } else {
      at += kSizes[type];
    }
  }
  explicit TestFile(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    auto num_tensors = read<uint64_t>(), num_values = read<uint64_t>();
    for (; num_values > 0; --num_values) {
      read_string();
      skip_value(read<uint32_t>());
    }
    for (; num_tensors > 0; --num_tensors) {
      std::string tensor_name = read_string();
      Tensor tensor = {0, 1, 0};
      for (auto n = read<uint32_t>(); n > 0; --n) tensor.count *= static_cast<int64_t>(read<uint64_t>());
      tensor.type = read<uint32_t>();
      tensor.offset = read<uint64_t>();
      tensors[tensor_name] = tensor;
    }
    data = (at + 31) / 32 * 32;
  }
  std::vector<float> values(const Tensor& tensor, DType type) const {
    std::vector<float> result(static_cast<size_t>(tensor.count));
    CHECK(data + tensor.offset + static_cast<size_t>(row_bytes(type, tensor.count)) <= bytes.size());
    make_kernels("scalar").dequantize[static_cast<int>(type)](bytes.data() + data + tensor.offset, result.data(),
                                                              tensor.count);
    return result;
  }
};

TEST(Layouts, FilesOfEveryTypeHoldTheSameModel) {
  struct {
    const char* file;
    DType type;
    uint32_t gguf_type;
    double error;  // relative, root mean square: what the type's precision allows
  } cases[] = {
      {"F16", DType::kF16, 1, 5e-4},      {"BF16", DType::kBF16, 30, 4e-3},     {"Q4_0", DType::kQ4_0, 2, 0.12},
      {"Q4_1", DType::kQ4_1, 3, 0.11},    {"Q5_0", DType::kQ5_0, 6, 0.06},      {"Q5_1", DType::kQ5_1, 7, 0.055},
      {"Q8_0", DType::kQ8_0, 8, 0.008},   {"Q2_K", DType::kQ2_K, 10, 0.35},     {"Q3_K", DType::kQ3_K, 11, 0.2},
      {"Q4_K", DType::kQ4_K, 12, 0.1},    {"Q5_K", DType::kQ5_K, 13, 0.05},     {"Q6_K", DType::kQ6_K, 14, 0.025},
      {"IQ4_NL", DType::kIQ4_NL, 20, 0.1}, {"IQ4_XS", DType::kIQ4_XS, 23, 0.1},
  };
  auto reference = find_test_data("quant/quant-F32.gguf");
  if (!reference) GTEST_SKIP() << "needs test data quant/quant-F32.gguf; set SLUICE_TEST_DATA";
  TestFile exact(*reference);
  for (const auto& c : cases) {
    auto path = find_test_data(std::string("quant/quant-") + c.file + ".gguf");
    ASSERT_TRUE(path) << c.file;
    TestFile file(*path);
    double error = 0, size = 0;
    for (const auto& [tensor_name, tensor] : file.tensors) {
      if (tensor.type != c.gguf_type) continue;
      std::vector<float> got = file.values(tensor, c.type);
      std::vector<float> expected = exact.values(exact.tensors.at(tensor_name), DType::kF32);
      ASSERT_EQ(got.size(), expected.size()) << tensor_name;
      for (size_t i = 0; i < got.size(); ++i) {
        double difference = static_cast<double>(got[i]) - static_cast<double>(expected[i]);
        error += difference * difference;
        size += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
      }
    }
    ASSERT_GT(size, 0) << c.file << ": no tensor of this type";
    EXPECT_LT(std::sqrt(error / size), c.error) << c.file;
    RecordProperty(c.file, std::to_string(std::sqrt(error / size)));
  }
}

}  // namespace
}  // namespace sluice::kernels
