// Products of every weight type and instruction set against scalar/ in double, and their batch invariance.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>

#include "kernels/isas_for_test.h"
#include "kernels/pack.h"
#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

struct Shape {
  int64_t num_outputs, num_inputs, output_begin, output_end;
};

// f32 rows that hold exactly what the entry's activation format holds, so that scalar/ multiplies the same numbers.
std::vector<float> activations_as_f32(ActivationFormat format, const ActivationBytes& rows, int64_t num_rows,
                                      int64_t num_inputs) {
  const size_t count = static_cast<size_t>(num_rows * num_inputs);
  std::vector<float> x(count);
  if (format == ActivationFormat::kBF16Pairs || format == ActivationFormat::kBF16Tiles) {
    for (size_t i = 0; i < count; ++i) {
      const int64_t row = static_cast<int64_t>(i) / num_inputs, input = static_cast<int64_t>(i) % num_inputs;
      uint16_t half;
      std::memcpy(&half, rows.data() + activation_offset(format, num_inputs, row, input / 32 * 32) + input % 32 * 2, 2);
      x[i] = bf16_to_float(half);
    }
    return x;
  }
  if (format != ActivationFormat::kQ8_32) {
    std::memcpy(x.data(), rows.data(), count * 4);
    return x;
  }
  const auto* blocks = reinterpret_cast<const BlockQ8_32*>(rows.data());
  for (size_t i = 0; i < count; ++i) x[i] = blocks[i / 32].scale * static_cast<float>(blocks[i / 32].qs[i % 32]);
  return x;
}

// An entry and how it wants its weights.
struct Case {
  const char* isa;
  DType type;
  bool is_packed;
};

std::string to_string(const Case& c) {
  return std::string(c.isa) + "_" + name(c.type) + (c.is_packed ? "_packed" : "");
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  IsaList isas = isas_to_test();
  for (int i = 0; i < isas.count; ++i) {
    const Kernels table = make_tested_kernels(isas.names[i]);
    for (DType type : kWeightTypes) {
      cases.push_back({isas.names[i], type, false});
      if (table.packed_matmul[static_cast<int>(type)].multiply != nullptr) cases.push_back({isas.names[i], type, true});
    }
  }
  return cases;
}

MatmulEntry get_entry(const Kernels& table, const Case& c) {
  return (c.is_packed ? table.packed_matmul : table.matmul)[static_cast<int>(c.type)];
}

// Rows of weights as the case's entry wants them, at an aligned address.
class Weights {
 public:
  Weights(const Case& c, const std::vector<uint8_t>& rows, int64_t num_outputs, int64_t num_inputs) {
    size_t bytes = c.is_packed ? static_cast<size_t>(packed_bytes(c.type, num_outputs, num_inputs)) : rows.size();
    memory_.reset(new (std::align_val_t{64}) uint8_t[bytes + 1]);
    if (c.is_packed) {
      pack_matrix(c.type, rows.data(), num_outputs, num_inputs, memory_.get());
    } else {
      std::memcpy(memory_.get(), rows.data(), bytes);
    }
  }
  const uint8_t* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<uint8_t[], Free> memory_;
};

MatmulArgs make_args(const uint8_t* weights, DType type, const ActivationBytes& x,
                     ActivationFormat format, std::vector<float>& y, int64_t num_rows, const Shape& shape) {
  MatmulArgs args = {};
  args.weights = weights;
  args.weight_row_bytes = row_bytes(type, shape.num_inputs);
  args.activations = x.data();
  args.activation_row_bytes = activation_row_bytes(format, shape.num_inputs);
  args.output = y.data();
  args.output_stride = shape.num_outputs + 3;
  args.num_rows = num_rows;
  args.num_inputs = shape.num_inputs;
  args.output_begin = shape.output_begin;
  args.output_end = shape.output_end;
  return args;
}

class Matmul : public testing::TestWithParam<Case> {};

TEST_P(Matmul, AgreesWithScalar) {
  const auto [isa, type, is_packed] = GetParam();
  const Kernels table = make_tested_kernels(isa), scalar = make_kernels("scalar");
  const MatmulEntry entry = get_entry(table, GetParam());
  const int64_t block = get_info(type).block_size;
  // Relative to the sum of |a * w|: f32 sums of up to some thousand terms, in one chain for the float types. Products
  // of tiles round quantised weights to bf16 besides: each by up to 2^-8, as often up as down.
  const double tolerance = 2e-6;
  const bool rounds_weights = entry.activation_format == ActivationFormat::kBF16Tiles && block > 1;
  Random random(7);
  std::vector<Shape> shapes = {{37, 5 * block, 3, 36}, {5, block, 0, 5}, {64, 9 * 256, 16, 64}, {33, 1024, 32, 33}};
  if (block == 1) shapes.push_back({19, 301, 1, 18});
  if (block == 32) shapes.push_back({20, 544, 1, 20});
  for (Shape& shape : shapes) {
    if (is_packed) shape.output_begin = shape.output_begin / kStripRows * kStripRows;
    if (is_packed && !can_pack(type, shape.num_inputs)) continue;
    std::vector<uint8_t> weights = random_weights(type, shape.num_outputs, shape.num_inputs, random);
    const Weights arranged(GetParam(), weights, shape.num_outputs, shape.num_inputs);
    for (int64_t num_rows : {1, 2, 3, 5, 8, 17}) {
      std::vector<float> floats = random_floats(num_rows * shape.num_inputs, random);
      if (block > 1) {  // a block of zeros has no scale to divide by
        std::fill(floats.begin(), floats.begin() + 32, 0.0f);
      }
      ActivationBytes x = convert_activations(table, entry.activation_format, floats, num_rows, shape.num_inputs);
      std::vector<float> exact_x = activations_as_f32(entry.activation_format, x, num_rows, shape.num_inputs);
      const float untouched = -123.5f;
      std::vector<float> y(static_cast<size_t>(num_rows * (shape.num_outputs + 3)), untouched);
      entry.multiply(make_args(arranged.data(), type, x, entry.activation_format, y, num_rows, shape));

      std::vector<float> row(static_cast<size_t>(shape.num_inputs));
      for (int64_t o = 0; o < shape.num_outputs; ++o) {
        scalar.dequantize[static_cast<int>(type)](weights.data() + o * row_bytes(type, shape.num_inputs), row.data(),
                                                  shape.num_inputs);
        for (int64_t r = 0; r < num_rows; ++r) {
          float got = y[static_cast<size_t>(r * (shape.num_outputs + 3) + o)];
          if (o < shape.output_begin || o >= shape.output_end) {
            ASSERT_EQ(got, untouched) << "row " << r << " output " << o;
            continue;
          }
          double expected = 0, magnitude = 0, squares = 0;
          for (int64_t i = 0; i < shape.num_inputs; ++i) {
            double product = static_cast<double>(row[static_cast<size_t>(i)]) *
                             static_cast<double>(exact_x[static_cast<size_t>(r * shape.num_inputs + i)]);
            expected += product;
            magnitude += std::fabs(product);
            squares += product * product;
          }
          const double rounding = rounds_weights ? 0x1p-7 * std::sqrt(squares) : 0;
          ASSERT_NEAR(got, expected, tolerance * magnitude + rounding + 1e-30)
              << "rows " << num_rows << " row " << r << " output " << o << " inputs " << shape.num_inputs;
        }
      }
    }
  }
}

// What rounding activations to 8 bits costs, over a row of normal ones: below 1% of the product's typical size.
TEST_P(Matmul, RoundedActivationsStayClose) {
  const auto [isa, type, is_packed] = GetParam();
  const Kernels table = make_tested_kernels(isa), scalar = make_kernels("scalar");
  const MatmulEntry entry = get_entry(table, GetParam());
  Random random(11);
  const Shape shape = {64, 2048, 0, 64};
  std::vector<uint8_t> weights = random_weights(type, 64, 2048, random);
  const Weights arranged(GetParam(), weights, 64, 2048);
  std::vector<float> floats = random_floats(2048, random);
  ActivationBytes x = convert_activations(table, entry.activation_format, floats, 1, 2048);
  ActivationBytes exact_x = convert_activations(scalar, ActivationFormat::kF32, floats, 1, 2048);
  std::vector<float> y(67), exact(67);
  entry.multiply(make_args(arranged.data(), type, x, entry.activation_format, y, 1, shape));
  scalar.matmul[static_cast<int>(type)].multiply(
      make_args(weights.data(), type, exact_x, ActivationFormat::kF32, exact, 1, shape));
  double error = 0, size = 0;
  for (size_t o = 0; o < 64; ++o) {
    error += std::pow(static_cast<double>(y[o]) - static_cast<double>(exact[o]), 2);
    size += std::pow(static_cast<double>(exact[o]), 2);
  }
  EXPECT_LT(std::sqrt(error / size), 0.01);
}

// The same bits for a row alone, among others, and however the outputs are split.
TEST_P(Matmul, IsBatchInvariant) {
  const auto [isa, type, is_packed] = GetParam();
  const Kernels table = make_tested_kernels(isa);
  const MatmulEntry entry = get_entry(table, GetParam());
  Random random(13);
  const int64_t num_outputs = 45, num_inputs = 1280, stride = num_outputs + 3;
  std::vector<uint8_t> weights = random_weights(type, num_outputs, num_inputs, random);
  const Weights arranged(GetParam(), weights, num_outputs, num_inputs);
  const int64_t most_rows = 270;  // more than a tile of rows
  std::vector<float> floats = random_floats(most_rows * num_inputs, random);
  ActivationBytes x = convert_activations(table, entry.activation_format, floats, most_rows, num_inputs);

  std::vector<float> alone(static_cast<size_t>(most_rows * stride));
  for (int64_t r = 0; r < most_rows; r += r < 20 ? 1 : 23) {
    MatmulArgs args =
        make_args(arranged.data(), type, x, entry.activation_format, alone, 1, {num_outputs, num_inputs, 0, 45});
    args.activations = x.data() + activation_offset(entry.activation_format, num_inputs, r);
    args.output = alone.data() + r * stride;
    entry.multiply(args);
  }
  const bool is_slow = std::string(isa) == "scalar";
  for (int64_t num_rows : {2, 3, 4, 5, 7, 17, 270}) {
    if (is_slow && num_rows > 17) continue;
    std::vector<float> together(alone.size());
    using Range = std::pair<int64_t, int64_t>;
    const auto ranges =
        is_packed ? std::vector<Range>{{0, 16}, {16, 45}} : std::vector<Range>{{0, 7}, {7, 24}, {24, 45}};
    for (auto [begin, end] : ranges) {
      entry.multiply(make_args(arranged.data(), type, x, entry.activation_format, together, num_rows,
                               {num_outputs, num_inputs, begin, end}));
    }
    for (int64_t r = 0; r < num_rows; r += r < 20 ? 1 : 23) {
      ASSERT_EQ(std::memcmp(alone.data() + r * stride, together.data() + r * stride, num_outputs * sizeof(float)), 0)
          << "row " << r << " of " << num_rows;
    }
  }
}

// Mapped files put tensors anywhere.
TEST_P(Matmul, TakesWeightsAtAnyAddress) {
  if (GetParam().is_packed) return;  // packed ones are aligned
  const auto [isa, type, is_packed] = GetParam();
  const Kernels table = make_tested_kernels(isa);
  const MatmulEntry entry = get_entry(table, GetParam());
  Random random(17);
  const Shape shape = {9, 512, 0, 9};
  std::vector<uint8_t> weights = random_weights(type, 9, 512, random);
  ActivationBytes x = convert_activations(table, entry.activation_format, random_floats(512, random), 1, 512);
  std::vector<float> expected(12), got(12);
  entry.multiply(make_args(weights.data(), type, x, entry.activation_format, expected, 1, shape));
  weights.insert(weights.begin(), 0xff);
  MatmulArgs args = make_args(weights.data(), type, x, entry.activation_format, got, 1, shape);
  args.weights = weights.data() + 1;
  entry.multiply(args);
  EXPECT_EQ(expected, got);
}

INSTANTIATE_TEST_SUITE_P(All, Matmul, testing::ValuesIn(all_cases()),
                         [](const auto& info) { return to_string(info.param); });

}  // namespace
}  // namespace sluice::kernels
