#include "llm/products.h"

#include <gtest/gtest.h>

#include <cstring>

namespace sluice::llm {
namespace {

float number(int64_t i) { return static_cast<float>((i * 7919) % 251) / 64.0f - 2.0f; }

struct Matrix {
  Matrix(int64_t outputs, int64_t inputs) {
    for (int64_t i = 0; i < outputs * inputs; ++i) values.push_back(number(i + outputs));
    for (int64_t o = 0; o < outputs; ++o) {
      bias.push_back(number(o + 3));
      scale.push_back(0.5f + static_cast<float>(o % 3));
    }
    linear.weight = {.type = DType::kF32,
                     .shape = {outputs, inputs},
                     .data = reinterpret_cast<const uint8_t*>(values.data())};
  }
  std::vector<float> values, bias, scale;
  Linear linear;
};

// Several matrices over some of the rows at once, cut for several workers, against plain sums in
// double.
TEST(ProductsTest, EveryCutGivesTheProduct) {
  const kernels::Kernels& kernels = kernels::get_kernels();
  for (int num_threads : {1, 3}) {
    ThreadPool pool(num_threads);
    for (int64_t num_rows : {1, 5, 700}) {
      constexpr int64_t kInputs = 24, kFirstRow = 2;
      Activations input;
      input.reset(num_rows + kFirstRow, kInputs, 1, step_size(num_rows + kFirstRow));
      for (int64_t r = 0; r < num_rows + kFirstRow; ++r) {
        for (int64_t i = 0; i < kInputs; ++i) input.row(r)[i] = number(r * kInputs + i);
        input.convert(kernels, r);
      }
      Matrix one(1, kInputs), odd(17, kInputs), large(333, kInputs);
      odd.linear.bias = odd.bias.data();
      large.linear.bias = large.bias.data();
      large.linear.scale = large.scale.data();
      std::vector<Matrix*> matrices = {&one, &odd, &large};
      std::vector<std::vector<float>> outputs;
      std::vector<Product> products;
      for (Matrix* m : matrices)
        outputs.emplace_back(static_cast<size_t>(num_rows * (m->linear.num_outputs() + 1)), -1.0f);
      for (size_t k = 0; k < matrices.size(); ++k) {
        products.push_back({&matrices[k]->linear, &input, kFirstRow, num_rows, outputs[k].data(),
                            matrices[k]->linear.num_outputs() + 1});
      }
      products.push_back({&one.linear, &input, 0, 0, nullptr, 1});  // no rows: nothing is written
      run_products(pool, kernels, products);
      for (size_t k = 0; k < matrices.size(); ++k) {
        const Linear& l = matrices[k]->linear;
        for (int64_t r = 0; r < num_rows; ++r) {
          for (int64_t o = 0; o < l.num_outputs(); ++o) {
            double sum = 0;
            for (int64_t i = 0; i < kInputs; ++i)
              sum += double{number((r + kFirstRow) * kInputs + i)} *
                     matrices[k]->values[static_cast<size_t>(o * kInputs + i)];
            if (l.scale != nullptr) sum *= l.scale[o];
            if (l.bias != nullptr) sum += l.bias[o];
            ASSERT_NEAR(outputs[k][static_cast<size_t>(r * (l.num_outputs() + 1) + o)], sum, 1e-3)
                << k << " " << r << " " << o;
          }
          ASSERT_EQ(outputs[k][static_cast<size_t>(r * (l.num_outputs() + 1) + l.num_outputs())],
                    -1.0f)
              << "wrote past the row";
        }
      }
    }
  }
}

// A row converted in spans is the row converted at once, and survives being copied.
TEST(ActivationsTest, SpansAndCopies) {
  const kernels::Kernels& kernels = kernels::get_kernels();
  constexpr int64_t kInputs = 768;
  constexpr FormatSet kAll = (1u << kernels::kNumActivationFormats) - 1;
  Activations whole, parts, copy;
  for (Activations* a : {&whole, &parts, &copy}) a->reset(3, kInputs, kAll, StepSize::kManyRows);
  for (Activations* a : {&whole, &parts}) {
    for (int64_t i = 0; i < kInputs; ++i) a->row(1)[i] = number(i);
  }
  whole.convert(kernels, 1);
  parts.convert(kernels, 1, 0, 256);
  parts.convert(kernels, 1, 256, kInputs);
  copy.copy_row(2, parts, 1);
  for (int f = 0; f < kernels::kNumActivationFormats; ++f) {
    auto format = static_cast<kernels::ActivationFormat>(f);
    for (int64_t begin = 0; begin < kInputs; begin += 32) {  // rows of some formats lie in pieces
      int64_t offset = kernels::activation_offset(format, kInputs, 0, begin);
      size_t bytes = static_cast<size_t>(kernels::activation_row_bytes(format, 32));
      EXPECT_EQ(std::memcmp(whole.data(format, 1) + offset, parts.data(format, 1) + offset, bytes), 0) << f;
      EXPECT_EQ(std::memcmp(whole.data(format, 1) + offset, copy.data(format, 2) + offset, bytes), 0) << f;
    }
  }
}

// A step of few rows takes the entry for it and its activation format, where there is one and the matrix is packed.
TEST(ProductsTest, StepsOfFewRowsHaveTheirOwnEntries) {
  kernels::Kernels table = kernels::get_kernels();
  auto some = [](const kernels::MatmulArgs&) {};
  const int type = static_cast<int>(DType::kQ4_0);
  table.packed_matmul[type] = {kernels::ActivationFormat::kBF16Tiles, some};
  table.few_rows_matmul[type] = {kernels::ActivationFormat::kQ8_32, some};
  Linear linear;
  linear.weight = {.type = DType::kQ4_0, .shape = {16, 32}, .data = reinterpret_cast<const uint8_t*>(&table)};
  EXPECT_EQ(&get_entry(table, linear, StepSize::kFewRows), &table.matmul[type]);
  linear.is_packed = true;
  EXPECT_EQ(&get_entry(table, linear, step_size(1)), &table.few_rows_matmul[type]);
  EXPECT_EQ(&get_entry(table, linear, step_size(kernels::kFewRows)), &table.few_rows_matmul[type]);
  EXPECT_EQ(&get_entry(table, linear, step_size(kernels::kFewRows + 1)), &table.packed_matmul[type]);
  table.few_rows_matmul[type] = {};
  EXPECT_EQ(&get_entry(table, linear, step_size(1)), &table.packed_matmul[type]);
}

}  // namespace
}  // namespace sluice::llm
