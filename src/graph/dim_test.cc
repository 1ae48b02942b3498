#include "graph/dim.h"

#include <gtest/gtest.h>

namespace sluice::graph {
namespace {

const Dim batch = Dim::symbol("batch"), length = Dim::symbol("length");

TEST(Dim, KnownOnesAreIntegers) {
  EXPECT_EQ((Dim(3) + Dim(4) * Dim(5)).value(), 23);
  EXPECT_EQ(floor_divide(Dim(-7), Dim(2)).value(), -4);
  EXPECT_EQ(ceil_divide(Dim(7), Dim(2)).value(), 4);
  EXPECT_EQ(ceil_divide(Dim(-7), Dim(2)).value(), -3);
  EXPECT_EQ(min_of(Dim(2), Dim(3)).value(), 2);
  EXPECT_EQ(max_of(Dim(2), Dim(3)).value(), 3);
  EXPECT_EQ(floor_divide(Dim(INT64_MIN), Dim(2)).value(), INT64_MIN / 2);
}

TEST(Dim, EqualFormulasAreEqual) {
  EXPECT_EQ((batch + Dim(1)) * (batch - Dim(1)), batch * batch - Dim(1));
  EXPECT_EQ(batch * length - length * batch, Dim(0));
  EXPECT_EQ(floor_divide(batch * length * Dim(12), Dim(4)), batch * length * Dim(3));
  EXPECT_EQ(floor_divide(batch * length * Dim(12), batch), length * Dim(12));
  EXPECT_EQ(floor_divide(batch + Dim(1), Dim(2)), floor_divide(Dim(1) + batch, Dim(2)));
  EXPECT_EQ(max_of(batch + Dim(2), batch), batch + Dim(2));
  EXPECT_FALSE(batch == length);
  EXPECT_FALSE(batch == Dim(1));
  EXPECT_FALSE(Dim::unknown() == Dim::unknown());
}

TEST(Dim, Prints) {
  EXPECT_EQ((length * Dim(2) + batch * length - Dim(3)).to_string(), "batch*length + 2*length - 3");
  EXPECT_EQ((Dim(0) - batch).to_string(), "-batch");
  EXPECT_EQ(floor_divide(length + Dim(1), Dim(2)).to_string(), "floor(length + 1, 2)");
  EXPECT_EQ(to_string(Dims{batch, Dim(3), length}), "batch x 3 x length");
  EXPECT_EQ(to_string(Dims{}), "scalar");
}

TEST(Dim, SymbolsTakeValues) {
  auto values = [](const std::string& name) -> std::optional<int64_t> {
    return name == "length" ? std::optional<int64_t>(9) : std::nullopt;
  };
  EXPECT_EQ(floor_divide(length - Dim(3), Dim(2)).substitute(values).value(), 3);
  EXPECT_EQ((batch * length).substitute(values), batch * Dim(9));
  EXPECT_EQ(min_of(length, batch).substitute(values), min_of(Dim(9), batch));
}

TEST(Dim, OverflowAndGrowthEndInAnUnknown) {
  EXPECT_FALSE((Dim(INT64_MAX) + Dim(1)).is_known());
  EXPECT_FALSE((Dim(INT64_MAX) * Dim(2)).is_known());
  EXPECT_FALSE(floor_divide(Dim(1), Dim(0)).is_known());
  Dim sum = 1;
  for (int i = 0; i < 40; ++i) sum *= Dim::symbol("s" + std::to_string(i)) + Dim(1);
  EXPECT_LT(sum.to_string().size(), 4096u);
  Dim nested = batch;
  for (int i = 0; i < 1000; ++i) nested = floor_divide(nested + length * nested, Dim(3));
  EXPECT_LT(nested.to_string().size(), 65536u);
}

}  // namespace
}  // namespace sluice::graph
