// Attention of every KV type and instruction set against a plain softmax in double, and its batch invariance. Rows all
// go one way here, as with SLUICE_BATCH_INVARIANT=1.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/isas_for_test.h"
#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

Kernels make_attention_kernels(const char* isa) {
  Kernels table = make_tested_kernels(isa);
  for (auto& entry : table.few_rows_attention) entry = nullptr;
  return table;
}

bool has_tiles(const char* isa, DType type) {
  return make_tested_kernels(isa).few_rows_attention[static_cast<int>(type)] != nullptr;
}

struct Case {
  int64_t head_dim, group_size, first_position, num_queries, window;
  float softcap;
};

// Keys and values of one head in pages of `type`, each an allocation of its own so that the sanitizer sees what is read
// outside; what lies behind the last position is NaN.
struct Cache {
  Cache(const Kernels& table, DType type, int64_t head_dim, int64_t context, Random& random, float key_bias = 0)
      : head_dim(head_dim) {
    const int64_t bytes = row_bytes(type, head_dim);
    const int64_t num_pages = (context + kPageSize - 1) / kPageSize;
    const auto dequantize = make_kernels("scalar").dequantize[static_cast<int>(type)];
    std::vector<uint8_t> stored(static_cast<size_t>(bytes));
    for (int which = 0; which < 2; ++which) {
      rows[which].resize(static_cast<size_t>(context * head_dim));
      for (int64_t i = 0; i < num_pages; ++i) {
        memory[which].emplace_back(static_cast<size_t>(kPageSize * bytes), uint8_t{0xff});
        pages[which].push_back(memory[which].back().data());
      }
      for (int64_t p = 0; p < context; ++p) {
        std::vector<float> row = random_floats(head_dim, random);
        if (which == 0) row[1] += key_bias;
        uint8_t* page = memory[which][static_cast<size_t>(p / kPageSize)].data();
        float* out = rows[which].data() + p * head_dim;
        if (which == 0) {
          store_key(table, type, row.data(), head_dim, page, p % kPageSize);
          gather_key(type, page, p % kPageSize, head_dim, stored.data());
          dequantize(stored.data(), out, head_dim);
        } else {
          store_value(table, type, row.data(), head_dim, page, p % kPageSize);
          dequantize(page + p % kPageSize * bytes, out, head_dim);
        }
      }
    }
  }
  int64_t head_dim;
  std::vector<std::vector<uint8_t>> memory[2];  // keys, values
  std::vector<const void*> pages[2];
  std::vector<float> rows[2];                   // [context, head_dim] as the pages hold them
};

// Queries [begin, end) of a case, and room for what a call writes.
struct Call {
  Call(const Cache& cache, const std::vector<float>& queries, const Case& c, int64_t begin, int64_t end) {
    const int64_t stride = c.group_size * c.head_dim + 5;
    scratch.resize(static_cast<size_t>(attention_scratch_floats(c.group_size, c.head_dim)));
    partials.resize(static_cast<size_t>(2 * (end - begin) * c.group_size * attention_partial_floats(c.head_dim)));
    args.queries = queries.data() + begin * stride;
    args.query_stride = stride;
    args.key_pages = cache.pages[0].data();
    args.value_pages = cache.pages[1].data();
    args.num_queries = end - begin;
    args.group_size = c.group_size;
    args.head_dim = c.head_dim;
    args.first_position = c.first_position + begin;
    args.window = c.window;
    args.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    args.softcap = c.softcap;
    args.partials = partials.data();
    args.scratch = scratch.data();
  }
  AttentionArgs args = {};
  std::vector<float> scratch, partials;
};

// [num_queries, group_size, head_dim] in rows of query_stride floats
std::vector<float> run(const Kernels& table, DType type, const Cache& cache, const std::vector<float>& queries,
                       const Case& c, int64_t begin, int64_t end) {
  const int64_t stride = c.group_size * c.head_dim + 5;
  std::vector<float> output(static_cast<size_t>(c.num_queries * stride), -7.0f);
  Call call(cache, queries, c, begin, end);
  attend(table, type, call.args, output.data() + begin * stride, stride);
  return output;
}

struct Error {
  double largest;
  double relative;  // root mean square, to that of the results
};

Error find_error(const Cache& cache, const std::vector<float>& queries, const std::vector<float>& output,
                 const Case& c) {
  const int64_t stride = c.group_size * c.head_dim + 5;
  double worst = 0, error_squares = 0, squares = 0;
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
        if (std::isnan(got)) return {INFINITY, INFINITY};
        error_squares += (got - expected) * (got - expected);
        squares += expected * expected;
      }
    }
  }
  return {worst, std::sqrt(error_squares / squares)};
}

double largest_of(const std::vector<float>& x) {
  double largest = 0;
  for (float value : x) largest = std::fmax(largest, std::fabs(static_cast<double>(value)));
  return largest;
}

class Attention : public testing::TestWithParam<std::tuple<const char*, DType>> {};

TEST_P(Attention, AgreesWithPlainSoftmax) {
  auto [isa, type] = GetParam();
  const Kernels table = make_attention_kernels(isa);
  Random random(3);
  std::vector<Case> cases;
  for (int64_t head_dim : {16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 20, 7}) {
    if (head_dim % get_info(type).block_size != 0) continue;
    cases.push_back({head_dim, 1, 0, 1, 0, 0});
    cases.push_back({head_dim, 3, 40, 5, 0, 0});
    cases.push_back({head_dim, 8, 199, 1, 0, 30});
  }
  for (int64_t group = 1; group <= 9; ++group) cases.push_back({64, group, 10 * group, 19, 9 * (group % 2), 0});
  for (int64_t group : {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 64}) cases.push_back({32, group, 70, 1, 0, 0});
  for (int64_t context = 1; context <= 50; ++context) cases.push_back({32, 2, context - 1, 1, 0, 0});
  for (int64_t window : {1, 15, 16, 17, 33}) cases.push_back({32, 2, 60, 40, window, 5});
  cases.push_back({64, 20, 30, 3, 0, 0});    // a tile of a few large groups
  cases.push_back({32, 1, 5, 300, 0, 0});    // more rows than a tile
  cases.push_back({32, 130, 20, 2, 0, 0});   // a group larger than a tile
  // Several spans: just more than one, their borders among the queries, windows that begin in another span.
  cases.push_back({32, 4, kAttentionSpan, 1, 0, 0});
  cases.push_back({32, 2, 2 * kAttentionSpan + 17, 1, 0, 20});
  cases.push_back({32, 1, kAttentionSpan - 10, 30, 0, 0});
  cases.push_back({32, 1, kAttentionSpan + 5, 30, 20, 0});
  cases.push_back({32, 2, 3 * kAttentionSpan, 2, kAttentionSpan, 0});
  for (const Case& c : cases) {
    Cache cache(table, type, c.head_dim, c.first_position + c.num_queries, random);
    std::vector<float> queries = random_floats(c.num_queries * (c.group_size * c.head_dim + 5), random);
    std::vector<float> output = run(table, type, cache, queries, c, 0, c.num_queries);
    // Values are around 1; f32 softmax over up to 1600 positions. Tiles take weights and values in bf16.
    const double tolerance = has_tiles(isa, type) ? 0x1p-8 * largest_of(cache.rows[1]) : 3e-6;
    ASSERT_LT(find_error(cache, queries, output, c).largest, tolerance)
        << "head_dim " << c.head_dim << " group " << c.group_size << " first " << c.first_position << " queries "
        << c.num_queries << " window " << c.window << " softcap " << c.softcap;
    const size_t row = static_cast<size_t>(c.group_size * c.head_dim);
    for (size_t i = 0; i < 5; ++i) ASSERT_EQ(output[row + i], -7.0f) << "wrote between rows";
  }
}

TEST_P(Attention, IsBatchInvariant) {
  auto [isa, type] = GetParam();
  const Kernels table = make_attention_kernels(isa);
  Random random(5);
  for (const Case& c : {Case{64, 4, 13, 37, 0, 0}, Case{96, 1, 0, 40, 11, 0}, Case{128, 7, 100, 9, 0, 20},
                        Case{32, 1, 0, 150, 0, 0}, Case{32, 20, 50, 9, 30, 0},
                        Case{32, 8, kAttentionSpan - 6, 10, 0, 0}, Case{32, 3, kAttentionSpan + 3, 20, 12, 0}}) {
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

// Any shape, any part of the queries: right, and the same bits as all of them together.
TEST_P(Attention, TakesAnyShape) {
  auto [isa, type] = GetParam();
  const Kernels table = make_attention_kernels(isa);
  Random random(6);
  auto pick = [&](int64_t begin, int64_t end) {
    return std::uniform_int_distribution<int64_t>(begin, end - 1)(random);
  };
  for (int i = 0; i < 24; ++i) {
    Case c = {};
    c.head_dim = get_info(type).block_size == 32 ? 32 * pick(1, 7) : pick(1, 150);
    c.group_size = i % 8 == 0 ? pick(10, 150) : pick(1, 10);
    c.first_position = i % 3 == 0 ? pick(kAttentionSpan - 70, kAttentionSpan + 10) : pick(0, 200);
    c.num_queries = pick(1, i % 8 == 0 ? 4 : 80);
    c.window = i % 2 == 0 ? pick(1, 150) : 0;
    c.softcap = i % 5 == 0 ? 20 : 0;
    const std::string what =
        fmt::format("head_dim {} group {} first {} queries {} window {} softcap {}", c.head_dim, c.group_size,
                    c.first_position, c.num_queries, c.window, c.softcap);
    Cache cache(table, type, c.head_dim, c.first_position + c.num_queries, random);
    const int64_t stride = c.group_size * c.head_dim + 5;
    const std::vector<float> queries = random_floats(c.num_queries * stride, random);
    const std::vector<float> together = run(table, type, cache, queries, c, 0, c.num_queries);
    const double tolerance = has_tiles(isa, type) ? 0x1p-8 * largest_of(cache.rows[1]) : 3e-6;
    ASSERT_LT(find_error(cache, queries, together, c).largest, tolerance) << what;
    const int64_t begin = pick(0, c.num_queries), end = pick(begin, c.num_queries) + 1;
    const std::vector<float> part = run(table, type, cache, queries, c, begin, end);
    for (int64_t e = begin * stride; e < end * stride; ++e) {
      ASSERT_EQ(part[static_cast<size_t>(e)], together[static_cast<size_t>(e)]) << what << " from " << begin;
    }
  }
}

// Whoever attends to a span, and in whatever order spans are done: merged from first to last they give the same bits.
TEST_P(Attention, SpansMayBeDoneApart) {
  auto [isa, type] = GetParam();
  const Kernels table = make_attention_kernels(isa);
  Random random(7);
  const Case c = {64, 4, 3 * kAttentionSpan + 100, 2, 0, 0};
  const int64_t rows = c.num_queries * c.group_size, floats = attention_partial_floats(c.head_dim);
  Cache cache(table, type, c.head_dim, c.first_position + c.num_queries, random);
  const std::vector<float> queries = random_floats(c.num_queries * (c.group_size * c.head_dim + 5), random);
  const std::vector<float> together = run(table, type, cache, queries, c, 0, c.num_queries);
  const SpanRange spans = find_visible_spans(c.first_position, c.num_queries, c.window);
  ASSERT_EQ(spans.end, 4);
  std::vector<std::vector<float>> partials(4);
  for (int64_t span = 3; span >= 0; --span) {
    Call call(cache, queries, c, 0, c.num_queries);
    attend_span(table, type, call.args, span);
    partials[static_cast<size_t>(span)] = call.partials;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (size_t span = 1; span < 4; ++span) {
      merge_partial(partials[span].data() + r * floats, partials[0].data() + r * floats, c.head_dim);
    }
    std::vector<float> out(static_cast<size_t>(c.head_dim));
    finish_partial(partials[0].data() + r * floats, out.data(), c.head_dim);
    const int64_t at = r / c.group_size * (c.group_size * c.head_dim + 5) + r % c.group_size * c.head_dim;
    for (int64_t d = 0; d < c.head_dim; ++d) {
      ASSERT_EQ(out[static_cast<size_t>(d)], together[static_cast<size_t>(at + d)]) << "row " << r;
    }
  }
}

// Pages that no query sees belong to somebody else, or to nobody.
TEST_P(Attention, ReadsOnlyWhatIsSeen) {
  auto [isa, type] = GetParam();
  const Kernels table = make_attention_kernels(isa);
  Random random(8);
  for (int64_t num_queries : {1, 20}) {
    const Case c = {32, 4, kAttentionSpan + 40, num_queries, 30, 0};
    Cache cache(table, type, c.head_dim, c.first_position + c.num_queries, random);
    const std::vector<float> queries = random_floats(c.num_queries * (c.group_size * c.head_dim + 5), random);
    const std::vector<float> expected = run(table, type, cache, queries, c, 0, c.num_queries);
    for (int64_t page = 0; (page + 1) * kPageSize <= c.first_position - c.window + 1; ++page) {
      cache.pages[0][static_cast<size_t>(page)] = cache.pages[1][static_cast<size_t>(page)] = nullptr;
    }
    EXPECT_EQ(run(table, type, cache, queries, c, 0, c.num_queries), expected);
  }
}

// A key so far from the others that every other weight is 0, at each end.
TEST_P(Attention, OneScoreMayOutweighAll) {
  auto [isa, type] = GetParam();
  const Kernels table = make_attention_kernels(isa);
  Random random(9);
  const Case c = {32, 1, 69, 1, 0, 0};
  for (int64_t peak : {0, 35, 69}) {
    Cache cache(table, type, c.head_dim, 70, random);
    std::vector<float> query(37, 0.0f);
    for (size_t d = 0; d < 32; ++d) query[d] = 1000 * cache.rows[0][static_cast<size_t>(peak) * 32 + d];
    std::vector<float> output = run(table, type, cache, query, c, 0, 1);
    for (size_t d = 0; d < 32; ++d) {
      const float value = cache.rows[1][static_cast<size_t>(peak) * 32 + d];
      EXPECT_NEAR(output[d], value, has_tiles(isa, type) ? 0x1p-8f * std::fabs(value) : 1e-5f);
    }
  }
}

// What tiles round: weights and values to 8 bits, for an error about as large as that of taking the result in bf16; not
// queries and keys, which would lose up to a tenth where scores are large, and more where keys have a large element.
TEST_P(Attention, TilesLoseLittle) {
  auto [isa, type] = GetParam();
  if (!has_tiles(isa, type)) GTEST_SKIP() << "no tiles";
  const Kernels table = make_attention_kernels(isa);
  Random random(11);
  struct Kind {
    float query_deviation, key_bias, softcap;
  };
  for (const Kind& kind : {Kind{1, 0, 0}, Kind{5, 0, 0}, Kind{20, 0, 0}, Kind{20, 0, 50}, Kind{1, 200, 0}}) {
    for (int64_t head_dim : {64, 128}) {
      const Case c = {head_dim, 2, 300, 40, 0, kind.softcap};
      Cache cache(table, type, head_dim, c.first_position + c.num_queries, random, kind.key_bias);
      const auto queries = random_floats(c.num_queries * (2 * head_dim + 5), random, kind.query_deviation);
      const Error error = find_error(cache, queries, run(table, type, cache, queries, c, 0, c.num_queries), c);
      const std::string what = fmt::format("queries {}, bias {}, softcap {}, head_dim {}", kind.query_deviation,
                                           kind.key_bias, kind.softcap, head_dim);
      EXPECT_LT(error.relative, type == DType::kBF16 ? 0.002 : 0.003) << what;
      EXPECT_LT(error.largest, 0x1p-8 * largest_of(cache.rows[1])) << what;
    }
  }
}

// Weights are divided by the sum of what they were rounded to.
TEST_P(Attention, MeanOfEqualValuesIsThatValue) {
  auto [isa, type] = GetParam();
  const Kernels table = make_attention_kernels(isa);
  Random random(12);
  const Case c = {32, 4, 600, 20, 0, 0};
  Cache cache(table, type, c.head_dim, c.first_position + c.num_queries, random);
  const std::vector<float> one(32, 1.0f);
  for (int64_t p = 0; p < c.first_position + c.num_queries; ++p) {
    store_value(table, type, one.data(), 32, cache.memory[1][static_cast<size_t>(p / kPageSize)].data(), p % kPageSize);
  }
  const int64_t stride = c.group_size * c.head_dim + 5;
  const std::vector<float> queries = random_floats(c.num_queries * stride, random);
  const std::vector<float> output = run(table, type, cache, queries, c, 0, c.num_queries);
  for (int64_t i = 0; i < c.num_queries * stride; ++i) {
    if (i % stride >= stride - 5) continue;
    ASSERT_NEAR(output[static_cast<size_t>(i)], 1.0f, type == DType::kQ8_0 ? 5e-4f : 1e-5f);
  }
}

// A key that is no number spoils the rows that see it, and them only.
TEST_P(Attention, NaNsStayWithThoseWhoSeeThem) {
  auto [isa, type] = GetParam();
  if (type == DType::kQ8_0) GTEST_SKIP() << "cannot hold one";
  const Kernels table = make_attention_kernels(isa);
  Random random(10);
  const Case c = {64, 4, 30, 40, 20, 0};
  Cache cache(table, type, c.head_dim, c.first_position + c.num_queries, random);
  const int64_t stride = c.group_size * c.head_dim + 5, width = c.group_size * c.head_dim, bad = 45;
  const std::vector<float> queries = random_floats(c.num_queries * stride, random);
  const std::vector<float> before = run(table, type, cache, queries, c, 0, c.num_queries);
  std::vector<float> key = random_floats(c.head_dim, random);
  key[17] = std::numeric_limits<float>::quiet_NaN();
  store_key(table, type, key.data(), c.head_dim, cache.memory[0][bad / kPageSize].data(), bad % kPageSize);
  const std::vector<float> after = run(table, type, cache, queries, c, 0, c.num_queries);
  for (int64_t i = 0; i < c.num_queries; ++i) {
    const int64_t position = c.first_position + i;
    const bool sees = bad <= position && bad > position - c.window;
    for (int64_t e = i * stride; e < i * stride + width; ++e) {
      const float got = after[static_cast<size_t>(e)];
      ASSERT_EQ(std::isnan(got), sees) << "query " << i;
      if (!sees) {
        ASSERT_EQ(got, before[static_cast<size_t>(e)]) << "query " << i;
      }
    }
  }
}

TEST(AttendSpan, ChoosesByRows) {
  static int64_t few = 0, many = 0;
  Kernels table = {};
  const int type = static_cast<int>(DType::kF16);
  table.attention[type] = [](const AttentionArgs& args) { many += args.num_queries; };
  auto attend_rows = [&](int64_t num_queries, int64_t group_size) {
    AttentionArgs args = {};
    args.num_queries = num_queries;
    args.group_size = group_size;
    attend_span(table, DType::kF16, args, 0);
  };
  attend_rows(1, 1);
  EXPECT_EQ(many, 1) << "no entry of its own";
  table.few_rows_attention[type] = [](const AttentionArgs& args) { few += args.num_queries; };
  attend_rows(1, kManyAttentionRows - 1);
  attend_rows((kManyAttentionRows - 1) / 4, 4);
  EXPECT_EQ(few, 1 + (kManyAttentionRows - 1) / 4);
  attend_rows(1, kManyAttentionRows);
  attend_rows(kManyAttentionRows, 1);
  EXPECT_EQ(many, 2 + kManyAttentionRows);
}

std::vector<const char*> isa_names() {
  const IsaList isas = isas_to_test();
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
