// The sampler's kernels of every instruction set against sums in double.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kLengths[] = {0, 1, 7, 8, 15, 16, 17, 31, 255, 256, 257, 1027, 5000};
constexpr float kInf = std::numeric_limits<float>::infinity();

class Sampling : public testing::TestWithParam<const char*> {
 protected:
  const Kernels table = make_kernels(GetParam());
  Random random{31};
};

TEST_P(Sampling, ExpWeights) {
  for (int64_t n : kLengths) {
    for (float scale : {0.01f, 1.0f, 7.0f}) {
      std::vector<float> x = random_floats(n, random, 4);
      float base = -kInf;
      for (float value : x) base = std::max(base, value);
      if (n > 2) x[static_cast<size_t>(n) / 2] = -kInf;
      std::vector<float> weights(x.size() + 1, 77.0f);
      double sum = table.exp_weights(x.data(), base, scale, weights.data(), n), expected = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        double weight = std::exp((static_cast<double>(x[i]) - static_cast<double>(base)) * static_cast<double>(scale));
        // Rounding of the exponent's product shows more the smaller the weight.
        ASSERT_NEAR(static_cast<double>(weights[i]), weight, 4e-7 + 1e-5 * weight) << n << " element " << i;
        expected += static_cast<double>(weights[i]);
        if (x[i] == -kInf) {
          EXPECT_EQ(weights[i], 0.0f);
        }
      }
      EXPECT_NEAR(sum, expected, 1e-6 * expected) << n;
      EXPECT_EQ(weights.back(), 77.0f) << "nothing is written behind the end";
    }
  }
}

TEST_P(Sampling, SumAtLeast) {
  for (int64_t n : kLengths) {
    std::vector<float> keys = random_floats(n, random), values = random_floats(n, random);
    for (float& value : values) value = std::fabs(value);
    std::vector<float> borders = {-kInf, -2.0f, 0.0f, 0.3f, 2.0f, kInf};
    if (n > 0) borders.push_back(keys.back());
    for (float border : borders) {
      double expected = 0;
      int64_t expected_count = 0, count = -1;
      for (size_t i = 0; i < keys.size(); ++i) {
        if (keys[i] < border) continue;
        expected += static_cast<double>(values[i]);
        ++expected_count;
      }
      double sum = table.sum_at_least(keys.data(), values.data(), border, n, &count);
      EXPECT_EQ(count, expected_count) << n << " border " << border;
      EXPECT_NEAR(sum, expected, 1e-6 * expected) << n << " border " << border;
    }
  }
}

std::vector<const char*> isa_names() {
  IsaList isas = available_isas();
  return {isas.names, isas.names + isas.count};
}

INSTANTIATE_TEST_SUITE_P(All, Sampling, testing::ValuesIn(isa_names()),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace sluice::kernels
