// Norms, rope, gates, sums and maxima of every instruction set against formulas in double.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kLengths[] = {1, 3, 7, 8, 9, 31, 64, 100, 1027};

double gelu(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

class Elementwise : public testing::TestWithParam<const char*> {
 protected:
  const Kernels table = make_kernels(GetParam());
  Random random{21};

  // |got - expected| <= tolerance * max(1, |expected|)
  void expect_near(const std::vector<float>& got, const std::function<double(size_t)>& expected, double tolerance) {
    for (size_t i = 0; i < got.size(); ++i) {
      double e = expected(i);
      ASSERT_NEAR(static_cast<double>(got[i]), e, tolerance * std::max(1.0, std::fabs(e))) << "element " << i;
    }
  }
  static double at(const std::vector<float>& x, size_t i) { return static_cast<double>(x[i]); }
};

TEST_P(Elementwise, Norms) {
  for (int64_t n : kLengths) {
    std::vector<float> x = random_floats(n, random, 3), w = random_floats(n, random), b = random_floats(n, random);
    for (float& value : x) value += 10;  // a mean that is large beside the spread
    double squares = 0, sum = 0, spread = 0;
    for (size_t i = 0; i < x.size(); ++i) squares += at(x, i) * at(x, i), sum += at(x, i);
    double mean = sum / static_cast<double>(n);
    for (size_t i = 0; i < x.size(); ++i) spread += (at(x, i) - mean) * (at(x, i) - mean);
    double rms = std::sqrt(squares / static_cast<double>(n) + 1e-5);
    double deviation = std::sqrt(spread / static_cast<double>(n) + 1e-5);
    std::vector<float> out(x.size());
    table.rms_norm(x.data(), w.data(), out.data(), n, 1e-5f);
    expect_near(out, [&](size_t i) { return at(x, i) / rms * at(w, i); }, 5e-7);
    if (n > 1) {
      table.layer_norm(x.data(), w.data(), b.data(), out.data(), n, 1e-5f);
      expect_near(out, [&](size_t i) { return (at(x, i) - mean) / deviation * at(w, i) + at(b, i); }, 5e-6);
      table.layer_norm(x.data(), w.data(), nullptr, out.data(), n, 1e-5f);
      expect_near(out, [&](size_t i) { return (at(x, i) - mean) / deviation * at(w, i); }, 5e-6);
    }
    std::vector<float> in_place = x;
    table.rms_norm(x.data(), w.data(), out.data(), n, 1e-5f);
    table.rms_norm(in_place.data(), w.data(), in_place.data(), n, 1e-5f);
    EXPECT_EQ(in_place, out);
  }
}

TEST_P(Elementwise, Rope) {
  for (int64_t half : {1, 3, 4, 8, 11, 32, 64}) {
    std::vector<float> x = random_floats(2 * half, random);
    std::vector<float> c = random_floats(half, random), s = random_floats(half, random);
    std::vector<float> got = x;
    auto rotate = [&](size_t a, size_t b, size_t i, bool second) {
      return second ? at(x, a) * at(s, i) + at(x, b) * at(c, i) : at(x, a) * at(c, i) - at(x, b) * at(s, i);
    };
    const auto h = static_cast<size_t>(half);
    table.rope_neox(got.data(), c.data(), s.data(), half);
    expect_near(got, [&](size_t i) { return rotate(i % h, i % h + h, i % h, i >= h); }, 1e-6);
    got = x;
    table.rope_interleaved(got.data(), c.data(), s.data(), half);
    expect_near(got, [&](size_t i) { return rotate(i & ~size_t{1}, i | 1, i / 2, i % 2 == 1); }, 1e-6);
  }
}

TEST_P(Elementwise, GatesAndArithmetic) {
  for (int64_t n : kLengths) {
    std::vector<float> x = random_floats(n, random, 4), y = random_floats(n, random), out(x.size());
    table.silu_multiply(x.data(), y.data(), out.data(), n);
    expect_near(out, [&](size_t i) { return at(x, i) / (1 + std::exp(-at(x, i))) * at(y, i); }, 1e-6);
    table.gelu_multiply(x.data(), y.data(), out.data(), n);
    expect_near(out, [&](size_t i) { return gelu(at(x, i)) * at(y, i); }, 2e-6);
    table.gelu_tanh(x.data(), out.data(), n);
    expect_near(out, [&](size_t i) { return gelu(at(x, i)); }, 1e-6);
    table.gelu_erf(x.data(), out.data(), n);
    expect_near(out, [&](size_t i) { return 0.5 * at(x, i) * (1 + std::erf(at(x, i) / std::sqrt(2.0))); }, 2e-6);
    table.add(x.data(), y.data(), out.data(), n);
    expect_near(out, [&](size_t i) { return static_cast<double>(x[i] + y[i]); }, 0);
    table.scale(x.data(), 0.3f, out.data(), n);
    expect_near(out, [&](size_t i) { return static_cast<double>(0.3f * x[i]); }, 0);
    table.softcap(x.data(), 5, out.data(), n);
    expect_near(out, [&](size_t i) { return 5 * std::tanh(at(x, i) / 5); }, 1e-6);
    out = y;
    table.multiply_add(x.data(), 0.3f, out.data(), n);
    expect_near(out, [&](size_t i) { return at(y, i) + static_cast<double>(0.3f) * at(x, i); }, 1e-6);
  }
}

TEST_P(Elementwise, ExtremesStaySane) {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x = {0, -0.0f, 1e-30f, -1e-30f, 50, -50, 100, -100, 1000, -1000, 3e38f, -3e38f, inf};
  const auto n = static_cast<int64_t>(x.size());
  std::vector<float> ones(x.size(), 1.0f), out(x.size());
  auto expect_like_relu = [&](const char* what) {
    for (size_t i = 0; i < x.size(); ++i) {
      if (std::fabs(x[i]) < 1) {
        EXPECT_NEAR(out[i], 0, 1e-29f) << what << " " << x[i];
      } else if (x[i] > 0) {
        EXPECT_EQ(out[i], x[i]) << what;
      } else {
        EXPECT_NEAR(out[i], 0, 1e-5) << what << " " << x[i];
      }
    }
  };
  table.silu_multiply(x.data(), ones.data(), out.data(), n);
  expect_like_relu("silu");
  table.gelu_tanh(x.data(), out.data(), n);
  expect_like_relu("gelu_tanh");
  table.gelu_erf(x.data(), out.data(), n);
  expect_like_relu("gelu_erf");
  table.softcap(x.data(), 30, out.data(), n);
  for (size_t i = 4; i < x.size(); ++i) EXPECT_NEAR(std::fabs(out[i]), 30 * std::tanh(std::fabs(at(x, i)) / 30), 1e-4);
}

TEST_P(Elementwise, LogSumExp) {
  for (int64_t n : {1, 5, 8, 13, 32000}) {
    std::vector<float> x = random_floats(n, random, 5);
    for (float shift : {0.0f, 500.0f, -500.0f}) {
      std::vector<float> y = x;
      double highest = -1e300, sum = 0;
      for (float& value : y) value += shift, highest = std::max(highest, static_cast<double>(value));
      for (float value : y) sum += std::exp(static_cast<double>(value) - highest);
      EXPECT_NEAR(table.log_sum_exp(y.data(), n), highest + std::log(sum), 1e-6) << n;
    }
  }
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> masked = {-inf, 2, -inf, -inf, -inf, -inf, -inf, -inf, -inf};
  EXPECT_EQ(table.log_sum_exp(masked.data(), 9), 2.0);
  masked[1] = -inf;
  EXPECT_EQ(table.log_sum_exp(masked.data(), 9), -std::numeric_limits<double>::infinity());
}

TEST_P(Elementwise, Argmax) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  struct {
    std::vector<float> x;
    int64_t expected;
  } cases[] = {
      {{1}, 0},
      {{1, 3, 2}, 1},
      {{2, 5, 5, 1}, 1},                                 // the lowest index of equals
      {{nan, 1, 2, nan}, 2},
      {{nan, nan}, 0},
      {{-inf, -inf}, 0},
      {{nan, -inf}, 1},
      {{0, inf, inf, nan}, 1},
      {{-1, -2, -3, -4, -5, -6, -7, -8, -0.5f}, 8},      // in the tail
      {{-1, -2, -3, nan, -5, -6, -7, 9, 9, 9}, 7},
      {{nan, nan, nan, nan, nan, nan, nan, nan, -3, nan}, 8},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(table.argmax(c.x.data(), static_cast<int64_t>(c.x.size())), c.expected) << testing::PrintToString(c.x);
  }
  std::vector<float> x = random_floats(32003, random);
  EXPECT_EQ(table.argmax(x.data(), 32003), std::max_element(x.begin(), x.end()) - x.begin());
}

std::vector<const char*> isa_names() {
  IsaList isas = available_isas();
  return {isas.names, isas.names + isas.count};
}

INSTANTIATE_TEST_SUITE_P(All, Elementwise, testing::ValuesIn(isa_names()),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace sluice::kernels
