#include "llm/pack_weights.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/test_data.h"
#include "llm/model_for_test.h"

namespace sluice::llm {
namespace {

bool has_packed_products() {
  for (const kernels::MatmulEntry& entry : kernels::get_kernels().packed_matmul) {
    if (entry.multiply != nullptr) return true;
  }
  return false;
}

// Every matrix moves, the embedding stays, and the answers are those of the rows in the file up to rounding.
TEST(PackWeights, ChangesWhereWeightsLieAndNotWhatTheyMean) {
  if (!has_packed_products()) GTEST_SKIP() << "no packed products on " << kernels::get_kernels().isa;
  for (const char* type : {"F32", "F16", "Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS"}) {
    SCOPED_TRACE(type);
    std::optional<std::string> path = find_test_data(std::string("quant/quant-") + type + ".gguf");
    if (!path) GTEST_SKIP() << "no quant/ among the test data";
    TestModel packed(*path), plain(*path, 2, false);
    for (const LayerWeights& layer : packed.transformer().weights().layers) {
      for (const Linear* linear : {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down}) {
        EXPECT_TRUE(linear->is_packed);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(linear->weight.data) % 64, 0u);
      }
    }
    EXPECT_TRUE(packed.transformer().weights().head.is_packed);
    EXPECT_FALSE(packed.transformer().weights().embedding.is_packed);
    EXPECT_FALSE(plain.transformer().weights().head.is_packed);
    EXPECT_EQ(packed.model->weight_bytes(), plain.model->weight_bytes());

    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 40; ++i) tokens.push_back((i * 37 + 11) % static_cast<int32_t>(plain.model->vocab_size()));
    std::vector<float> a = compute_logits(packed, tokens, 40), b = compute_logits(plain, tokens, 40);
    ASSERT_EQ(a.size(), b.size());
    double error = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
      size += std::pow(static_cast<double>(b[i]), 2);
    }
    // Sums in another order tip a few roundings of 8-bit activations, and random weights carry each far.
    const bool is_exact = packed.transformer().weights().layers[0].q.weight.type == DType::kF32;
    EXPECT_LT(std::sqrt(error / size), is_exact ? 1e-5 : 5e-2);
  }
}

// What had to be transposed first is given back once it is packed. (That packed models of every family are right is
// reference_test.cc's matter: it loads them as users do.)
TEST(PackWeights, KeepsNoTransposedCopies) {
  if (!has_packed_products()) GTEST_SKIP() << "no packed products on " << kernels::get_kernels().isa;
  const std::string path = std::string(SLUICE_REPOSITORY) + "/tests/data/llm/gpt2";
  TestModel packed(path), plain(path, 2, false);
  EXPECT_TRUE(packed.transformer().weights().owned_matrices.empty());
  EXPECT_FALSE(plain.transformer().weights().owned_matrices.empty());
}

}  // namespace
}  // namespace sluice::llm
