// Attention of every KV type and instruction set against a plain softmax in double, and its batch invariance.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

struct Case {
  int64_t head_dim, group_size, first_position, num_queries, window;
  float softcap;
};

// Keys and values of one head in pages of `type`; what lies behind the last position is NaN.
struct Cache {
  Cache(const Kernels& table, DType type, int64_t head_dim, int64_t context, Random& random) : head_dim(head_dim) {
    const int64_t bytes = row_bytes(type, head_dim);
    const int64_t num_pages = (context + kPageSize - 1) / kPageSize;
    for (int which = 0; which < 2; ++which) {
      memory[which].assign(static_cast<size_t>(num_pages * kPageSize * bytes), 0xff);
      rows[which].resize(static_cast<size_t>(context * head_dim));
      for (int64_t p = 0; p < context; ++p) {
        std::vector<float> row = random_floats(head_dim, random);
        uint8_t* to = memory[which].data() + p * bytes;
        table.store_row[static_cast<int>(type)](row.data(), to, head_dim);
        make_kernels("scalar").dequantize[static_cast<int>(type)](to, rows[which].data() + p * head_dim, head_dim);
      }
      for (int64_t i = 0; i < num_pages; ++i) pages[which].push_back(memory[which].data() + i * kPageSize * bytes);
    }
  }
  int64_t head_dim;
  std::vector<uint8_t> memory[2];      // keys, values
  std::vector<const void*> pages[2];
  std::vector<float> rows[2];          // [context, head_dim] as the pages hold them
};

// [num_queries, group_size, head_dim] in rows of query_stride floats
std::vector<float> run(const Kernels& table, DType type, const Cache& cache, const std::vector<float>& queries,
                       const Case& c, int64_t begin, int64_t end) {
  const int64_t stride = c.group_size * c.head_dim + 5;
  std::vector<float> output(static_cast<size_t>(c.num_queries * stride), -7.0f);
  std::vector<float> scratch(static_cast<size_t>(
      attention_scratch_floats(c.first_position + c.num_queries, c.group_size, c.head_dim)));
  AttentionArgs args = {};
  args.queries = queries.data() + begin * stride;
  args.query_stride = stride;
  args.output = output.data() + begin * stride;
  args.output_stride = stride;
  args.key_pages = cache.pages[0].data();
  args.value_pages = cache.pages[1].data();
  args.num_queries = end - begin;
  args.group_size = c.group_size;
  args.head_dim = c.head_dim;
  args.first_position = c.first_position + begin;
  args.window = c.window;
  args.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  args.softcap = c.softcap;
  args.scratch = scratch.data();
  table.attention[static_cast<int>(type)](args);
  return output;
}

double largest_error(const Cache& cache, const std::vector<float>& queries, const std::vector<float>& output,
                     const Case& c) {
  const int64_t stride = c.group_size * c.head_dim + 5;
  double worst = 0;
  for (int64_t i = 0; i < c.num_queries; ++i) {
    const int64_t last = c.first_position + i;
    const int64_t first = c.window > 0 ? std::max<int64_t>(0, last - c.window + 1) : 0;
    for (int64_t h = 0; h < c.group_size; ++h) {
      const float* query = queries.data() + i * stride + h * c.head_dim;
      std::vector<double> weights;
      double highest = -1e300, sum = 0;
      for (int64_t p = first; p <= last; ++p) {
        double dot = 0;
        for (int64_t d = 0; d < c.head_dim; ++d) {
          const float key = cache.rows[0][static_cast<size_t>(p * c.head_dim + d)];
          dot += static_cast<double>(query[d]) * static_cast<double>(key);
        }
        dot /= std::sqrt(static_cast<double>(c.head_dim));
        if (c.softcap > 0) dot = static_cast<double>(c.softcap) * std::tanh(dot / static_cast<double>(c.softcap));
        weights.push_back(dot);
        highest = std::max(highest, dot);
      }
      for (double& weight : weights) sum += weight = std::exp(weight - highest);
      for (int64_t d = 0; d < c.head_dim; ++d) {
        double expected = 0;
        for (size_t k = 0; k < weights.size(); ++k) {
          const size_t at = (static_cast<size_t>(first) + k) * static_cast<size_t>(c.head_dim) + static_cast<size_t>(d);
          expected += weights[k] / sum * static_cast<double>(cache.rows[1][at]);
        }
        double got = static_cast<double>(output[static_cast<size_t>(i * stride + h * c.head_dim + d)]);
        if (!(std::fabs(got - expected) <= worst)) worst = std::fabs(got - expected);
        if (std::isnan(got)) return std::numeric_limits<double>::infinity();
      }
    }
  }
  return worst;
}

class Attention : public testing::TestWithParam<std::tuple<const char*, DType>> {};

TEST_P(Attention, AgreesWithPlainSoftmax) {
  auto [isa, type] = GetParam();
  const Kernels table = make_kernels(isa);
  Random random(3);
  std::vector<Case> cases;
  for (int64_t head_dim : {16, 32, 48, 64, 80, 96, 128, 256, 20, 7}) {
    if (head_dim % get_info(type).block_size != 0) continue;
    cases.push_back({head_dim, 1, 0, 1, 0, 0});
    cases.push_back({head_dim, 3, 40, 5, 0, 0});
    cases.push_back({head_dim, 8, 199, 1, 0, 30});
  }
  for (int64_t group = 1; group <= 8; ++group) cases.push_back({64, group, 10 * group, 19, 9 * (group % 2), 0});
  for (int64_t context = 1; context <= 50; ++context) cases.push_back({32, 2, context - 1, 1, 0, 0});
  for (int64_t window : {1, 15, 16, 17, 33}) cases.push_back({32, 2, 60, 40, window, 5});
  cases.push_back({64, 20, 30, 3, 0, 0});  // a group larger than a tile
  for (const Case& c : cases) {
    Cache cache(table, type, c.head_dim, c.first_position + c.num_queries, random);
    std::vector<float> queries = random_floats(c.num_queries * (c.group_size * c.head_dim + 5), random);
    std::vector<float> output = run(table, type, cache, queries, c, 0, c.num_queries);
    // Values are around 1; f32 softmax over up to 200 positions.
    ASSERT_LT(largest_error(cache, queries, output, c), 3e-6)
        << "head_dim " << c.head_dim << " group " << c.group_size << " first " << c.first_position << " queries "
        << c.num_queries << " window " << c.window << " softcap " << c.softcap;
    const size_t row = static_cast<size_t>(c.group_size * c.head_dim);
    for (size_t i = 0; i < 5; ++i) ASSERT_EQ(output[row + i], -7.0f) << "wrote between rows";
  }
}

TEST_P(Attention, IsBatchInvariant) {
  auto [isa, type] = GetParam();
  const Kernels table = make_kernels(isa);
  Random random(5);
  for (const Case& c : {Case{64, 4, 13, 37, 0, 0}, Case{96, 1, 0, 40, 11, 0}, Case{128, 7, 100, 9, 0, 20}}) {
    Cache cache(table, type, c.head_dim, c.first_position + c.num_queries, random);
    const int64_t stride = c.group_size * c.head_dim + 5;
    std::vector<float> queries = random_floats(c.num_queries * stride, random);
    std::vector<float> together = run(table, type, cache, queries, c, 0, c.num_queries);
    for (int64_t i = 0; i < c.num_queries; ++i) {
      std::vector<float> alone = run(table, type, cache, queries, c, i, i + 1);
      for (int64_t e = i * stride; e < i * stride + c.group_size * c.head_dim; ++e) {
        ASSERT_EQ(alone[static_cast<size_t>(e)], together[static_cast<size_t>(e)]) << "query " << i;
      }
    }
    std::vector<float> second_chunk = run(table, type, cache, queries, c, 5, c.num_queries);
    for (int64_t e = 5 * stride; e < c.num_queries * stride; ++e) {
      ASSERT_EQ(second_chunk[static_cast<size_t>(e)], together[static_cast<size_t>(e)]);
    }
  }
}

// A key so far from the others that every other weight is 0, at each end.
TEST_P(Attention, OneScoreMayOutweighAll) {
  auto [isa, type] = GetParam();
  const Kernels table = make_kernels(isa);
  Random random(9);
  const Case c = {32, 1, 69, 1, 0, 0};
  for (int64_t peak : {0, 35, 69}) {
    Cache cache(table, type, c.head_dim, 70, random);
    std::vector<float> query(37, 0.0f);
    for (size_t d = 0; d < 32; ++d) query[d] = 1000 * cache.rows[0][static_cast<size_t>(peak) * 32 + d];
    std::vector<float> output = run(table, type, cache, query, c, 0, 1);
    for (size_t d = 0; d < 32; ++d) EXPECT_NEAR(output[d], cache.rows[1][static_cast<size_t>(peak) * 32 + d], 1e-5);
  }
}

std::vector<const char*> isa_names() {
  IsaList isas = available_isas();
  return {isas.names, isas.names + isas.count};
}

INSTANTIATE_TEST_SUITE_P(All, Attention,
                         testing::Combine(testing::ValuesIn(isa_names()),
                                          testing::Values(DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" + name(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace sluice::kernels
