// What products of tiles have that others have not: weights rounded to bf16, rows that begin in the middle of a tile,
// more rows and outputs than are kept at once. matmul_test.cc and attention_test.cc have the rest.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "kernels/attention.h"
#include "kernels/isas_for_test.h"
#include "kernels/pack.h"
#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

constexpr ActivationFormat kTiles = ActivationFormat::kBF16Tiles;

// A packed matrix of random weights, and the rows it was made of.
struct Matrix {
  Matrix(DType type, int64_t num_outputs, int64_t num_inputs, Random& random)
      : type(type), num_outputs(num_outputs), num_inputs(num_inputs),
        rows(random_weights(type, num_outputs, num_inputs, random)),
        strips(static_cast<size_t>(packed_bytes(type, num_outputs, num_inputs))) {
    pack_matrix(type, rows.data(), num_outputs, num_inputs, strips.data());
  }
  MatmulArgs args(const uint8_t* x, float* y, int64_t num_rows) {
    return {.weights = strips.data(), .weight_row_bytes = 0, .activations = x,
            .activation_row_bytes = activation_row_bytes(kTiles, num_inputs), .output = y, .output_stride = num_outputs,
            .num_rows = num_rows, .num_inputs = num_inputs, .output_begin = 0, .output_end = num_outputs};
  }
  DType type;
  int64_t num_outputs, num_inputs;
  std::vector<uint8_t> rows;
  ActivationBytes strips;  // aligned more than strips have to be
};

struct TileCase {
  const char* isa;
  DType type;
};

std::vector<TileCase> tile_cases() {
  std::vector<TileCase> cases;
  IsaList isas = isas_to_test();
  for (int i = 0; i < isas.count; ++i) {
    const Kernels table = make_tested_kernels(isas.names[i]);
    for (DType type : kWeightTypes) {
      const MatmulEntry& entry = table.packed_matmul[static_cast<int>(type)];
      if (entry.multiply != nullptr && entry.activation_format == kTiles) cases.push_back({isas.names[i], type});
    }
  }
  return cases;
}

class Tiles : public testing::TestWithParam<TileCase> {
 protected:
  const Kernels table = make_tested_kernels(GetParam().isa), scalar = make_kernels("scalar");
  const DType type = GetParam().type;
  const MatmulEntry entry = table.packed_matmul[static_cast<int>(type)];
  Random random{43};
};

// Rows of the identity bring out every weight by itself.
TEST_P(Tiles, EveryWeightIsTheNearestOfBf16) {
  constexpr int64_t kOutputs = 37;
  const bool takes_any = get_packed_layout(type).block_elements < 32;
  for (int64_t num_inputs : takes_any ? std::vector<int64_t>{8, 300, 512} : std::vector<int64_t>{512}) {
    Matrix matrix(type, kOutputs, num_inputs, random);
    std::vector<float> identity(static_cast<size_t>(num_inputs * num_inputs));
    for (int64_t i = 0; i < num_inputs; ++i) identity[static_cast<size_t>(i * num_inputs + i)] = 1;
    const ActivationBytes x = convert_activations(table, kTiles, identity, num_inputs, num_inputs);
    std::vector<float> got(static_cast<size_t>(num_inputs * kOutputs)), exact(static_cast<size_t>(num_inputs));
    entry.multiply(matrix.args(x.data(), got.data(), num_inputs));
    for (int64_t o = 0; o < kOutputs; ++o) {
      const uint8_t* row = matrix.rows.data() + o * row_bytes(type, num_inputs);
      scalar.dequantize[static_cast<int>(type)](row, exact.data(), num_inputs);
      float largest = 0;
      for (float weight : exact) largest = std::fmax(largest, std::fabs(weight));
      for (int64_t i = 0; i < num_inputs; ++i) {
        const float weight = got[static_cast<size_t>(i * kOutputs + o)], right = exact[static_cast<size_t>(i)];
        ASSERT_EQ(weight, bf16_to_float(float_to_bf16(weight))) << "output " << o << " input " << i;
        // Half a unit of the eighth bit, and a little of the scale for how the float was made.
        const float tolerance = takes_any ? 0 : 0x1p-8f * std::fabs(right) + 0x1p-13f * largest;
        ASSERT_NEAR(weight, right, tolerance) << "output " << o << " input " << i << " of " << num_inputs;
      }
    }
  }
}

// Bit for bit the same: rows together from any row on, or alone.
TEST_P(Tiles, RowsMayBeginInTheMiddleOfATile) {
  constexpr int64_t kRows = 600;
  const int64_t block = get_packed_layout(type).block_elements;
  const int64_t num_outputs = 16 * 9 + 5, num_inputs = block < 32 ? 300 : block == 32 ? 544 : 512;
  Matrix matrix(type, num_outputs, num_inputs, random);
  const ActivationBytes x =
      convert_activations(table, kTiles, random_floats(kRows * num_inputs, random), kRows, num_inputs);
  std::vector<float> all(static_cast<size_t>(kRows * num_outputs));
  entry.multiply(matrix.args(x.data(), all.data(), kRows));
  for (int64_t first : {1, 15, 16, 37, 560, 599}) {
    for (int64_t num_rows : {1, 4, 16, 21, 33, 40, 563}) {
      if (first + num_rows > kRows) continue;
      std::vector<float> some(static_cast<size_t>(num_rows * num_outputs) + 1, -5.0f);
      entry.multiply(matrix.args(x.data() + activation_offset(kTiles, num_inputs, first), some.data(), num_rows));
      ASSERT_EQ(some.back(), -5.0f);
      some.pop_back();
      ASSERT_EQ(std::memcmp(some.data(), all.data() + first * num_outputs, some.size() * sizeof(float)), 0)
          << num_rows << " rows from " << first;
    }
  }
}

// What rounding weights and activations costs a product: an error of about 0.25% of the product's typical size, half of
// what activations of 8 bits cost.
TEST_P(Tiles, RoundingCostsLittle) {
  constexpr int64_t kOutputs = 256, kInputs = 2048;
  Matrix matrix(type, kOutputs, kInputs, random);
  const std::vector<float> floats = random_floats(kInputs, random);
  const ActivationBytes x = convert_activations(table, kTiles, floats, 1, kInputs);
  std::vector<float> y(kOutputs), row(kInputs);
  entry.multiply(matrix.args(x.data(), y.data(), 1));
  double error = 0, size = 0;
  for (size_t o = 0; o < kOutputs; ++o) {
    scalar.dequantize[static_cast<int>(type)](matrix.rows.data() + o * static_cast<size_t>(row_bytes(type, kInputs)),
                                              row.data(), kInputs);
    double exact = 0;
    for (size_t i = 0; i < kInputs; ++i) exact += static_cast<double>(row[i]) * static_cast<double>(floats[i]);
    error += std::pow(static_cast<double>(y[o]) - exact, 2);
    size += exact * exact;
  }
  EXPECT_LT(std::sqrt(error / size), 0.0035);
  RecordProperty("error", std::to_string(std::sqrt(error / size)));
}

INSTANTIATE_TEST_SUITE_P(All, Tiles, testing::ValuesIn(tile_cases()), [](const auto& info) {
  return std::string(info.param.isa) + "_" + name(info.param.type);
});
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Tiles);

// Of few rows the processor's vector units make less work than its tiles.
TEST(TilesTable, LeavesFewRowsToVectors) {
  if (!get_cpu().avx512_vnni) GTEST_SKIP() << "no AVX-512 here";
  const Kernels below = make_kernels("avx512"), tiles = make_tested_kernels("amx_emulated");
  for (DType type : kWeightTypes) {
    const int t = static_cast<int>(type);
    const bool has_tiles = tiles.packed_matmul[t].activation_format == kTiles;
    EXPECT_EQ(has_tiles, type != DType::kF32 && type != DType::kF16) << name(type);
    EXPECT_EQ(tiles.few_rows_matmul[t].multiply, has_tiles ? below.packed_matmul[t].multiply : nullptr) << name(type);
    EXPECT_EQ(below.few_rows_matmul[t].multiply, nullptr);
  }
  for (DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
    const int t = static_cast<int>(type);
    const bool has_tiles = tiles.attention[t] != below.attention[t];
    EXPECT_EQ(has_tiles, type != DType::kF32) << name(type);
    EXPECT_EQ(tiles.few_rows_attention[t], has_tiles ? below.attention[t] : nullptr) << name(type);
    EXPECT_EQ(below.few_rows_attention[t], nullptr);
  }
}

// The model of the tile unit is right where there is one to ask.
TEST(TileUnit, GivesTheBitsThatEmulationGives) {
  if (!get_cpu().amx_bf16 || !may_use_tiles()) GTEST_SKIP() << "no tile unit here";
  constexpr int64_t kOutputs = 45, kRows = 37, kInputs = 768;
  const Kernels real = make_kernels("amx"), emulated = make_tested_kernels("amx_emulated");
  Random random(47);
  std::vector<float> floats = random_floats(kRows * kInputs, random);
  for (size_t i = 0; i < floats.size(); i += 7) floats[i] *= 1e-38f;  // denormal, or with denormal products
  const ActivationBytes x = convert_activations(real, kTiles, floats, kRows, kInputs);
  for (DType type : kWeightTypes) {
    const MatmulEntry& entry = real.packed_matmul[static_cast<int>(type)];
    if (entry.activation_format != kTiles) continue;
    Matrix matrix(type, kOutputs, kInputs, random);
    std::vector<float> expected(kRows * kOutputs), got(kRows * kOutputs);
    emulated.packed_matmul[static_cast<int>(type)].multiply(matrix.args(x.data(), expected.data(), kRows));
    entry.multiply(matrix.args(x.data(), got.data(), kRows));
    EXPECT_EQ(got, expected) << name(type);
  }
}

TEST(TileUnit, AttendsAsEmulationDoes) {
  if (!get_cpu().amx_bf16 || !may_use_tiles()) GTEST_SKIP() << "no tile unit here";
  constexpr int64_t kHeadDim = 96, kQueries = 90, kGroup = 3, kPages = 15;
  const Kernels real = make_kernels("amx"), emulated = make_tested_kernels("amx_emulated");
  Random random(48);
  for (DType type : {DType::kF16, DType::kBF16, DType::kQ8_0}) {
    const int64_t page_bytes = kPageSize * row_bytes(type, kHeadDim);
    std::vector<uint8_t> memory(static_cast<size_t>(2 * kPages * page_bytes));
    std::vector<const void*> pages;
    for (int64_t i = 0; i < 2 * kPages; ++i) {
      uint8_t* page = memory.data() + i * page_bytes;
      for (int64_t row = 0; row < kPageSize; ++row) {
        const std::vector<float> x = random_floats(kHeadDim, random);
        (i < kPages ? store_key : store_value)(real, type, x.data(), kHeadDim, page, row);
      }
      pages.push_back(page);
    }
    const std::vector<float> queries = random_floats(kQueries * kGroup * kHeadDim, random);
    auto run = [&](const Kernels& table) {
      std::vector<float> scratch(static_cast<size_t>(attention_scratch_floats(kGroup, kHeadDim)));
      std::vector<float> partials(static_cast<size_t>(kQueries * kGroup * attention_partial_floats(kHeadDim)));
      AttentionArgs args = {};
      args.queries = queries.data();
      args.query_stride = kGroup * kHeadDim;
      args.key_pages = pages.data();
      args.value_pages = pages.data() + kPages;
      args.num_queries = kQueries;
      args.group_size = kGroup;
      args.head_dim = kHeadDim;
      args.first_position = kPages * kPageSize - kQueries;
      args.window = 100;
      args.scale = 0.1f;
      args.partials = partials.data();
      args.scratch = scratch.data();
      attend_span(table, type, args, 0);
      return partials;
    };
    EXPECT_EQ(run(real), run(emulated)) << name(type);
  }
}

}  // namespace
}  // namespace sluice::kernels
