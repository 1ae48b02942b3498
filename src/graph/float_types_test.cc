#include "graph/float_types.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sluice::graph {
namespace {

constexpr ElementType kNarrow[] = {ElementType::kF8E4M3FN, ElementType::kF8E4M3FNUZ, ElementType::kF8E5M2,
                                   ElementType::kF8E5M2FNUZ, ElementType::kF4E2M1};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool is_unsigned_zero_type(ElementType t) { return t == ElementType::kF8E4M3FNUZ || t == ElementType::kF8E5M2FNUZ; }
int num_codes(ElementType t) { return t == ElementType::kF4E2M1 ? 16 : 256; }

TEST(FloatTypes, EveryCodeComesBack) {
  for (const ElementType type : kNarrow) {
    for (int code = 0; code < num_codes(type); ++code) {
      const float value = narrow_float_values(type)[code];
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(narrow_float_values(type)[float_to_narrow(type, value, true)])) << name(type) << code;
        continue;
      }
      EXPECT_EQ(float_to_narrow(type, value, false), code) << name(type) << " " << value;
    }
  }
  for (int code = 0; code < 255; ++code) {
    for (const RoundMode mode : {RoundMode::kUp, RoundMode::kDown, RoundMode::kNearest}) {
      EXPECT_EQ(float_to_narrow(ElementType::kF8E8M0, std::ldexp(1.0f, code - 127), false, mode), code);
    }
  }
}

// Every 37th float that is there (exhaustive over exponents and the bits that matter) against the nearest code, found
// by looking at all of them.
TEST(FloatTypes, RoundsToTheNearestAndTiesToEven) {
  for (const ElementType type : kNarrow) {
    const float* values = narrow_float_values(type);
    const int num_positive = num_codes(type) / 2;
    int largest = 0;
    for (int code = 0; code < num_positive; ++code) {
      if (std::isfinite(values[code])) largest = code;
    }
    const float ulp = values[largest] - values[largest - 1];
    int code = 0;
    for (uint64_t bits = 0; bits < 0x7f800000u; bits += 3701) {
      const float x = bits_to_float(static_cast<uint32_t>(bits));
      while (code < largest && values[code + 1] <= x) ++code;  // values[code] <= x
      int expected = code;
      if (code < largest) {
        const double down = static_cast<double>(x) - values[code], up = static_cast<double>(values[code + 1]) - x;
        if (up < down || (up == down && code % 2 == 1)) expected = code + 1;
      }
      ASSERT_EQ(float_to_narrow(type, x, true), expected) << name(type) << " " << x;
      const int negative = expected == 0 && is_unsigned_zero_type(type) ? 0 : expected + num_positive;
      ASSERT_EQ(float_to_narrow(type, -x, true), negative) << name(type) << " " << -x;
      if (type == ElementType::kF4E2M1) continue;
      const bool overflows = x > values[largest] + ulp / 2 || (x == values[largest] + ulp / 2 && largest % 2 == 1);
      const float unsaturated = values[float_to_narrow(type, x, false)];
      if (!overflows) ASSERT_EQ(unsaturated, values[expected]) << name(type) << " " << x;
      else if (type == ElementType::kF8E5M2) ASSERT_EQ(unsaturated, kInfinity) << x;
      else ASSERT_TRUE(std::isnan(unsaturated)) << name(type) << " " << x;
    }
  }
}

// The Cast tables of the operator specification.
TEST(FloatTypes, SpecialValues) {
  struct Case { ElementType type; float value; bool saturates; int code; };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Case cases[] = {
      {ElementType::kF8E4M3FN, kInfinity, true, 0x7e},   {ElementType::kF8E4M3FN, -kInfinity, false, 0xff},
      {ElementType::kF8E4M3FN, nan, true, 0x7f},         {ElementType::kF8E4M3FN, -0.0f, true, 0x80},
      {ElementType::kF8E4M3FN, 464.0f, false, 0x7e},     {ElementType::kF8E4M3FN, 465.0f, false, 0x7f},
      {ElementType::kF8E4M3FNUZ, kInfinity, true, 0x7f}, {ElementType::kF8E4M3FNUZ, kInfinity, false, 0x80},
      {ElementType::kF8E4M3FNUZ, -0.0f, true, 0x00},     {ElementType::kF8E4M3FNUZ, nan, false, 0x80},
      {ElementType::kF8E5M2, kInfinity, true, 0x7b},     {ElementType::kF8E5M2, -kInfinity, false, 0xfc},
      {ElementType::kF8E5M2, 1e6f, false, 0x7c},         {ElementType::kF8E5M2FNUZ, -1e9f, true, 0xff},
      {ElementType::kF4E2M1, nan, true, 0x08},           {ElementType::kF4E2M1, -kInfinity, true, 0x0f},
      {ElementType::kF4E2M1, 0.25f, true, 0x00},         {ElementType::kF4E2M1, 5.0f, true, 0x06},
      {ElementType::kF8E8M0, 0.0f, true, 0},             {ElementType::kF8E8M0, 0.0f, false, 255},
      {ElementType::kF8E8M0, kInfinity, true, 254},      {ElementType::kF8E8M0, kInfinity, false, 255},
      {ElementType::kF8E8M0, nan, true, 255},            {ElementType::kF8E8M0, 3e38f, true, 254},
      {ElementType::kF8E8M0, 3e38f, false, 255},
  };
  for (const Case& c : cases)
    EXPECT_EQ(float_to_narrow(c.type, c.value, c.saturates), c.code) << name(c.type) << " " << c.value;
}

TEST(FloatTypes, E8M0RoundModes) {
  auto code = [](float x, RoundMode mode) { return float_to_narrow(ElementType::kF8E8M0, x, true, mode); };
  EXPECT_EQ(code(1.1f, RoundMode::kUp), 128);
  EXPECT_EQ(code(1.9f, RoundMode::kDown), 127);
  EXPECT_EQ(code(1.49f, RoundMode::kNearest), 127);
  EXPECT_EQ(code(1.5f, RoundMode::kNearest), 128);
  EXPECT_EQ(code(std::ldexp(1.5f, -127), RoundMode::kNearest), 1);
  EXPECT_EQ(code(std::ldexp(1.25f, -127), RoundMode::kNearest), 0);
  EXPECT_EQ(code(std::ldexp(1.25f, -127), RoundMode::kUp), 1);
}

TEST(FloatTypes, DoublesAreRoundedOnce) {
  // Just above half way between 1 and the next f16: through a float it would be a tie, and go down.
  EXPECT_EQ(double_to_f16(1.0 + 0x1.0p-11 + 0x1.0p-40), 0x3c01);
  EXPECT_EQ(double_to_f16(1.0 + 0x1.0p-11), 0x3c00);
  EXPECT_EQ(double_to_f16(1.0 + 0x1.0p-11 - 0x1.0p-40), 0x3c00);
  EXPECT_EQ(double_to_bf16(1.0 + 0x1.0p-8 + 0x1.0p-40), 0x3f81);
  EXPECT_EQ(double_to_bf16(-1.0 - 0x1.0p-8), 0xbf80);
  EXPECT_EQ(double_to_f16(1e300), 0x7c00);
  EXPECT_EQ(double_to_f16(-1e-300), 0x8000);
  EXPECT_TRUE(std::isnan(round_to_odd(std::nan(""))));
}

}  // namespace
}  // namespace sluice::graph
