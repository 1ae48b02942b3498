// Attention against the operator's own run(): heads side by side or apart, shared ones, masks of every form, rows that
// see nothing.
#include <gtest/gtest.h>

#include <limits>

#include "graph/kernels_for_test.h"

namespace sluice::graph {
namespace {

using for_test::check_kernels;
using for_test::integer;
using for_test::random_tensor;
using for_test::real;

constexpr double kBf16 = 1.0 / 100;  // numbers of 8 bits, rounded once

struct AttentionCase {
  int64_t batch, heads, kv_heads, rows, keys, size, value_size;
};

void check_attention(ElementType type, double tolerance) {
  Random random(6);
  const AttentionCase kAll[] = {{1, 1, 1, 1, 1, 1, 1},       {2, 3, 3, 7, 7, 20, 20},  {1, 4, 2, 5, 9, 16, 16},
                                {1, 2, 2, 197, 197, 64, 64}, {2, 6, 1, 1, 33, 24, 40}, {1, 12, 12, 16, 16, 32, 32},
                                {1, 1, 1, 50, 3, 7, 5},      {1, 9, 3, 64, 64, 8, 17}};
  for (const AttentionCase& c : kAll) {
    const Tensor q3 = random_tensor(random, {c.batch, c.rows, c.heads * c.size}, type, -2, 2);
    const Tensor k3 = random_tensor(random, {c.batch, c.keys, c.kv_heads * c.size}, type, -2, 2);
    const Tensor v3 = random_tensor(random, {c.batch, c.keys, c.kv_heads * c.value_size}, type);
    const for_test::Attributes heads{{"q_num_heads", integer(c.heads)}, {"kv_num_heads", integer(c.kv_heads)}};
    const Tensor q = q3.reshaped(Shape{c.batch, c.heads, c.rows, c.size});
    const Tensor k = k3.reshaped(Shape{c.batch, c.kv_heads, c.keys, c.size});
    const Tensor v = v3.reshaped(Shape{c.batch, c.kv_heads, c.keys, c.value_size});
    auto check = [&](const Value& mask, for_test::Attributes attributes, int opset = 23) {
      check_kernels({"Attention", "", {q, k, v, mask}, {}, attributes, tolerance, 0, opset});
      for (const auto& [name, attribute] : heads) attributes[name] = attribute;
      const auto names = check_kernels({"Attention", "", {q3, k3, v3, mask}, {3}, attributes, tolerance, 0, opset});
      const bool is_square = c.rows == c.keys || !attributes.contains("is_causal");
      EXPECT_EQ(names.size(), is_square && opset == 23 ? 1u : names.size());
    };
    check({}, {});
    check({}, {{"scale", real(0.5f)}});
    check({}, {{"is_causal", integer(1)}});
    const Shape masks[] = {{c.rows, c.keys},
                           {1, c.keys},
                           {c.batch, 1, 1, c.keys},
                           {c.batch, 1, c.rows, c.keys},
                           {1, c.heads, c.rows, c.keys},
                           {c.batch, c.heads, c.rows, c.keys},
                           {c.keys}};
    for (const Shape& shape : masks) {
      Tensor is_seen(ElementType::kBool, shape), bias = random_tensor(random, shape, ElementType::kF32, -3, 3);
      for (int64_t i = 0; i < is_seen.count(); ++i) {
        const bool hides_row = shape.rank() == 2 && i < c.keys;  // the first query sees nothing
        is_seen.data<bool>()[i] = random.below(3) != 0 && !hides_row;
        if (hides_row) bias.data<float>()[i] = -std::numeric_limits<float>::infinity();
      }
      check(is_seen, {});
      check(for_test::converted(bias, type), {});
      check(for_test::converted(bias, type), {{"is_causal", integer(1)}});
    }
    check(random_tensor(random, {c.rows, (c.keys + 1) / 2}, type), {}, 24);  // shorter than the keys
    if (testing::Test::HasFailure()) return;
  }
}

TEST(KernelsAttention, OfFloats) { check_attention(ElementType::kF32, 1e-5); }
TEST(KernelsAttention, OfBf16) { check_attention(ElementType::kBF16, kBf16); }

}  // namespace
}  // namespace sluice::graph
