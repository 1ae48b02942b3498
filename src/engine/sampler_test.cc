#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "base/thread_pool.h"

namespace sluice::engine {
namespace {

using ::testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::unique_ptr<RequestState> make_state(const SamplingParams& sampling,
                                         std::vector<int32_t> prompt = {1},
                                         const std::vector<int32_t>& output = {},
                                         uint64_t seed = 5) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling = sampling;
  std::unique_ptr<RequestState> state = make_request_state(std::move(request), seed);
  for (int32_t token : output) append_token(*state->sequences.front(), token);
  return state;
}

std::vector<float> random_logits(int64_t count, uint64_t seed, float spread = 4.0f) {
  Random random(seed);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& logit : logits)
    logit =
        static_cast<float>(random.uniform() + random.uniform() + random.uniform() - 1.5) * spread;
  return logits;
}

// What the definitions say, by sorting everything: the probability of each token.
std::vector<double> reference_probabilities(std::vector<float> logits, const Sequence& sequence,
                                            const std::vector<int32_t>& end_tokens) {
  const SamplingParams& sampling = sequence.request->sampling();
  size_t n = logits.size();
  std::vector<int32_t> prompt(sequence.tokens.begin(),
                              sequence.tokens.begin() + sequence.num_prompt_tokens);
  std::vector<int32_t> output(sequence.tokens.begin() + sequence.num_prompt_tokens,
                              sequence.tokens.end());
  std::vector<double> x(logits.begin(), logits.end());
  auto ban = [&](int32_t token) {
    if (static_cast<size_t>(token) < n) x[static_cast<size_t>(token)] = -INFINITY;
  };
  if (!sampling.allowed_token_ids.empty()) {
    for (size_t i = 0; i < n; ++i) {
      if (std::find(sampling.allowed_token_ids.begin(), sampling.allowed_token_ids.end(),
                    static_cast<int32_t>(i)) == sampling.allowed_token_ids.end())
        ban(static_cast<int32_t>(i));
    }
  }
  if (static_cast<int64_t>(output.size()) < sampling.min_tokens) {
    for (int32_t token : end_tokens) ban(token);
    for (int32_t token : sampling.stop_token_ids) ban(token);
  }
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    size_t begun = word.size() - 1;
    if (output.size() >= begun &&
        std::equal(word.begin(), word.end() - 1, output.end() - static_cast<int64_t>(begun)))
      ban(word.back());
  }
  for (auto [token, bias] : sampling.logit_bias) x[static_cast<size_t>(token)] += bias;
  for (size_t i = 0; i < n; ++i) {
    int64_t count = std::count(output.begin(), output.end(), static_cast<int32_t>(i));
    bool seen = count > 0 || std::count(prompt.begin(), prompt.end(), static_cast<int32_t>(i)) > 0;
    if (seen)
      x[i] = x[i] > 0 ? x[i] / sampling.repetition_penalty : x[i] * sampling.repetition_penalty;
    if (count > 0)
      x[i] -= sampling.frequency_penalty * static_cast<double>(count) + sampling.presence_penalty;
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  std::vector<double> p(n, 0.0);
  if (sampling.temperature == 0) {
    p[order[0]] = 1;
    return p;
  }
  for (size_t i = 0; i < n; ++i) p[i] = std::exp((x[i] - x[order[0]]) / sampling.temperature);
  auto total = [&] { return std::accumulate(p.begin(), p.end(), 0.0); };
  for (size_t i = 0; i < n; ++i) {
    if (p[i] < sampling.min_p) p[i] = 0;
  }
  if (sampling.top_k > 0) {
    for (size_t i = static_cast<size_t>(sampling.top_k); i < n; ++i) p[order[i]] = 0;
  }
  auto keep = [&](const std::vector<size_t>& best_first, double mass) {
    double all = total(), sum = 0;
    bool is_over = false;
    for (size_t i : best_first) {
      if (is_over) p[i] = 0;
      sum += p[i];
      is_over = is_over || sum >= mass * all;
    }
  };
  if (sampling.top_p < 1) keep(order, sampling.top_p);
  if (sampling.typical_p < 1) {
    double all = total(), entropy = 0;
    for (double each : p) entropy -= each > 0 ? each / all * std::log(each / all) : 0;
    std::vector<size_t> typical(n);
    std::iota(typical.begin(), typical.end(), size_t{0});
    auto distance = [&](size_t i) {
      return p[i] > 0 ? std::abs(-std::log(p[i] / all) - entropy) : INFINITY;
    };
    std::stable_sort(typical.begin(), typical.end(),
                     [&](size_t a, size_t b) { return distance(a) < distance(b); });
    keep(typical, sampling.typical_p);
  }
  double all = total();
  for (double& each : p) each /= all;
  return p;
}

// Draws many times (each draw is that of another seed) and compares with the reference: nothing of
// probability 0, and Pearson's chi-square over the rest within 5 standard deviations of its mean.
void check_distribution(const char* name, const SamplingParams& sampling,
                        const std::vector<int32_t>& prompt = {1},
                        const std::vector<int32_t>& output = {}, int64_t vocab_size = 60,
                        int num_draws = 8000) {
  SCOPED_TRACE(name);
  const std::vector<int32_t> end_tokens = {2, 3};
  Sampler sampler(vocab_size, end_tokens);
  ASSERT_NO_THROW(sampler.validate(sampling));
  Sampler::Scratch scratch;
  std::vector<float> logits = random_logits(vocab_size, 11);
  const std::vector<float> untouched = logits;
  std::unique_ptr<RequestState> state = make_state(sampling, prompt, output);
  Sequence& sequence = *state->sequences.front();
  std::vector<double> expected = reference_probabilities(logits, sequence, end_tokens);
  std::vector<int64_t> counts(static_cast<size_t>(vocab_size), 0);
  for (int i = 0; i < num_draws; ++i) {
    state->seed = static_cast<uint64_t>(i);
    ++counts[static_cast<size_t>(sampler.pick(logits.data(), sequence, scratch))];
  }
  EXPECT_EQ(logits, untouched) << "logits are restored";
  double chi_square = 0;
  int cells = 0;
  double rare_expected = 0, rare_seen = 0;  // cells of few expected draws are taken together
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
      continue;
    }
    double mean = expected[i] * num_draws, seen = static_cast<double>(counts[i]);
    if (mean < 8) {
      rare_expected += mean;
      rare_seen += seen;
      continue;
    }
    chi_square += (seen - mean) * (seen - mean) / mean;
    ++cells;
  }
  if (rare_expected > 0) {
    chi_square +=
        (rare_seen - rare_expected) * (rare_seen - rare_expected) / std::max(rare_expected, 1.0);
    ++cells;
  }
  double degrees = std::max(cells - 1, 1);
  EXPECT_LT(chi_square, degrees + 5 * std::sqrt(2 * degrees)) << cells << " cells";
}

TEST(Sampler, DrawsWhatEachParameterDefines) {
  SamplingParams plain;
  check_distribution("plain", plain);
  auto with = [&](auto change) {
    SamplingParams sampling;
    change(sampling);
    return sampling;
  };
  check_distribution("greedy", with([](auto& s) { s.temperature = 0; }));
  check_distribution("cold", with([](auto& s) { s.temperature = 0.3; }));
  check_distribution("hot", with([](auto& s) { s.temperature = 3; }));
  check_distribution("top_k", with([](auto& s) { s.top_k = 7; }));
  check_distribution("top_k 1", with([](auto& s) { s.top_k = 1; }));
  check_distribution("top_k beyond the vocabulary", with([](auto& s) { s.top_k = 1000; }));
  check_distribution("top_p", with([](auto& s) { s.top_p = 0.7; }));
  check_distribution("top_p hot", with([](auto& s) { s.top_p = 0.95, s.temperature = 5; }));
  check_distribution("tiny top_p", with([](auto& s) { s.top_p = 1e-9; }));
  check_distribution("min_p", with([](auto& s) { s.min_p = 0.2, s.temperature = 1.5; }));
  check_distribution("typical_p", with([](auto& s) { s.typical_p = 0.5; }));
  check_distribution("all filters", with([](auto& s) {
                       s.top_k = 20, s.top_p = 0.9, s.min_p = 0.02, s.typical_p = 0.9,
                       s.temperature = 1.3;
                     }));
  check_distribution("top_p and min_p",
                     with([](auto& s) { s.top_p = 0.8, s.min_p = 0.05, s.temperature = 2; }));
  check_distribution("top_p and typical_p",
                     with([](auto& s) { s.top_p = 0.8, s.typical_p = 0.6, s.temperature = 2; }));
  check_distribution("bias", with([](auto& s) {
                       s.logit_bias = {{4, 3.0f}, {5, -kInf}, {6, -2.5f}};
                     }));
  check_distribution("allowed", with([](auto& s) { s.allowed_token_ids = {4, 9, 9, 30, 59}; }));
  check_distribution("min_tokens", with([](auto& s) {
                       s.min_tokens = 3, s.stop_token_ids = {7, 1000};
                     }),
                     {1}, {8, 9});
  check_distribution("min_tokens reached",
                     with([](auto& s) { s.min_tokens = 2, s.stop_token_ids = {7}; }), {1}, {8, 9});
  check_distribution("bad words", with([](auto& s) {
                       s.bad_words = {{4}, {8, 9, 10}, {9, 11}, {1, 8, 9, 12}, {7, 13}};
                     }),
                     {1}, {8, 9});
  check_distribution("repetition", with([](auto& s) { s.repetition_penalty = 1.8; }), {1, 4, 4, 7},
                     {8, 9, 8});
  check_distribution("frequency", with([](auto& s) { s.frequency_penalty = 0.9; }), {1, 4, 4, 7},
                     {8, 9, 8, 8});
  check_distribution("presence", with([](auto& s) { s.presence_penalty = -1.1; }), {1, 4, 4, 7},
                     {8, 9, 8, 8});
  check_distribution("everything", with([](auto& s) {
                       s.repetition_penalty = 0.7, s.frequency_penalty = 0.4,
                       s.presence_penalty = 0.3, s.logit_bias = {{8, 1.0f}};
                       s.bad_words = {{9, 10}}, s.min_tokens = 9, s.top_k = 30, s.top_p = 0.97,
                       s.temperature = 1.7;
                     }),
                     {1, 4, 4, 7}, {8, 9, 8, 8});
  check_distribution("many blocks", with([](auto& s) { s.temperature = 0.5; }), {1}, {}, 5003,
                     4000);
  check_distribution("many blocks, top_p",
                     with([](auto& s) { s.top_p = 0.6, s.temperature = 0.5; }), {1}, {}, 5003,
                     4000);
}

// Over a vocabulary of a real model's size, with logits from flat to peaked: exactly the right
// tokens are kept.
TEST(Sampler, SelectsExactlyInLargeVocabularies) {
  constexpr int64_t kVocab = 150000;
  Sampler sampler(kVocab, {});
  Sampler::Scratch scratch;
  for (float spread : {0.01f, 2.0f, 12.0f}) {
    std::vector<float> logits = random_logits(kVocab, 3, spread);
    std::vector<float> sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    std::vector<double> cumulative;
    for (float logit : sorted)
      cumulative.push_back((cumulative.empty() ? 0.0 : cumulative.back()) +
                           std::exp(static_cast<double>(logit - sorted[0])));
    for (double top_p : {0.1, 0.9, 0.999}) {
      for (int64_t top_k : {0, 40, 5000}) {
        SamplingParams sampling;
        sampling.top_p = top_p;
        sampling.top_k = top_k;
        double mass =
            top_p * (top_k > 0 ? cumulative[static_cast<size_t>(top_k) - 1] : cumulative.back());
        size_t kept =
            static_cast<size_t>(std::lower_bound(cumulative.begin(), cumulative.end(), mass) -
                                cumulative.begin()) +
            1;
        std::unique_ptr<RequestState> state = make_state(sampling);
        for (uint64_t seed = 0; seed < 5; ++seed) {
          state->seed = seed;
          int32_t token = sampler.pick(logits.data(), *state->sequences.front(), scratch);
          EXPECT_GE(logits[static_cast<size_t>(token)], sorted[kept - 1]);
        }
        // Single-precision weights may move the border by a few in a flat distribution.
        EXPECT_NEAR(static_cast<double>(scratch.num_kept), static_cast<double>(kept),
                    2 + 1e-4 * static_cast<double>(kept))
            << "spread " << spread << " top_p " << top_p << " top_k " << top_k;
      }
    }
  }
}

// Rows on which a search for a border could fail to end or to be exact: all equal, two levels, and one
// far above many that hold next to nothing.
TEST(Sampler, FindsBordersAmongEqualsAndOutliers) {
  constexpr int64_t kVocab = 5000;
  for (const char* isa : {"scalar", kernels::get_kernels().isa}) {
    SCOPED_TRACE(isa);
    const kernels::Kernels table = kernels::make_kernels(isa);
    Sampler sampler(kVocab, {}, table);
    Sampler::Scratch scratch;
    auto count_kept = [&](std::vector<float>& logits, auto change) {
      SamplingParams sampling;
      change(sampling);
      std::unique_ptr<RequestState> state = make_state(sampling);
      for (state->seed = 0; state->seed < 20; ++state->seed) {
        int32_t token = sampler.pick(logits.data(), *state->sequences.front(), scratch);
        EXPECT_TRUE(token >= 0 && token < kVocab);
        if (std::equal(logits.begin() + 1, logits.end(), logits.begin())) {
          EXPECT_LT(token, scratch.num_kept) << "of equals the lower ids are kept";
        }
      }
      return scratch.num_kept;
    };
    auto top_p = [](double p) { return [p](SamplingParams& sampling) { sampling.top_p = p; }; };
    auto typical_p = [](double p) { return [p](SamplingParams& sampling) { sampling.typical_p = p; }; };
    std::vector<float> logits(kVocab, 3.0f);
    EXPECT_EQ(count_kept(logits, top_p(0.5)), 2500);
    EXPECT_EQ(count_kept(logits, typical_p(0.5)), 2500);
    EXPECT_EQ(count_kept(logits, [](SamplingParams& s) { s.min_p = 1; }), kVocab);
    EXPECT_EQ(count_kept(logits, [](SamplingParams& s) { s.top_k = 700, s.top_p = 0.5; }), 350);
    for (size_t i = 0; i < logits.size(); i += 10) logits[i] = 3.0f + std::log(9.0f);
    // 500 tokens of weight 1 and 4,500 of 1/9: half of the mass each.
    EXPECT_NEAR(static_cast<double>(count_kept(logits, top_p(0.25))), 250, 1);
    EXPECT_NEAR(static_cast<double>(count_kept(logits, top_p(0.75))), 500 + 2250, 2);
    EXPECT_EQ(count_kept(logits, [](SamplingParams& s) { s.min_p = 0.2; }), 500);
    std::fill(logits.begin(), logits.end(), -70.0f);
    logits[77] = 10.0f;
    EXPECT_EQ(count_kept(logits, top_p(0.999)), 1);
    EXPECT_EQ(count_kept(logits, typical_p(0.999)), 1);
    std::fill(logits.begin(), logits.end(), -kInf);
    logits[4] = logits[4999] = 0;
    for (double p : {0.3, 0.5, 0.9}) {
      EXPECT_EQ(count_kept(logits, top_p(p)), p > 0.5 ? 2 : 1);
      EXPECT_EQ(count_kept(logits, typical_p(p)), p > 0.5 ? 2 : 1);
    }
  }
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  std::vector<float> logits(100, 1.0f);
  logits[37] = logits[38] = logits[99] = 2.0f;
  Sampler sampler(100, {});
  Sampler::Scratch scratch;
  SamplingParams sampling;
  sampling.temperature = 0;
  EXPECT_EQ(sampler.pick(logits.data(), *make_state(sampling)->sequences.front(), scratch), 37);
  sampling.temperature = 1;
  sampling.top_k = 2;
  std::unique_ptr<RequestState> state = make_state(sampling);
  for (state->seed = 0; state->seed < 50; ++state->seed) {
    EXPECT_LT(sampler.pick(logits.data(), *state->sequences.front(), scratch), 39)
        << "ties go to lower tokens";
  }
}

TEST(Sampler, DrawsDependOnSeedSequenceAndPositionOnly) {
  std::vector<float> logits = random_logits(1000, 2);
  Sampler sampler(1000, {});
  Sampler::Scratch fresh, used;
  SamplingParams sampling;
  sampling.top_p = 0.99;
  auto draw_all = [&](uint64_t seed, int index, Sampler::Scratch& scratch) {
    std::unique_ptr<RequestState> state = make_state(sampling, {1}, {}, seed);
    Sequence& sequence = *state->sequences.front();
    sequence.index = index;
    std::vector<int32_t> drawn;
    for (int i = 0; i < 20; ++i) {
      drawn.push_back(sampler.pick(logits.data(), sequence, scratch));
      append_token(sequence, drawn.back());
    }
    return drawn;
  };
  std::vector<int32_t> first = draw_all(1, 0, fresh);
  EXPECT_NE(draw_all(2, 0, used), first);
  EXPECT_NE(draw_all(1, 1, used), first);
  EXPECT_EQ(draw_all(1, 0, used), first);
  EXPECT_GT(std::set<int32_t>(first.begin(), first.end()).size(), 5u) << "positions differ";
}

// As the engine does it: rows over a pool, whoever gets to them, with memory that other rows have used.
TEST(Sampler, ABatchSaysWhatEachRowSaysAlone) {
  constexpr int64_t kVocab = 20000;
  constexpr size_t kRows = 32;
  Sampler sampler(kVocab, {});
  std::vector<std::vector<float>> rows;
  std::vector<std::unique_ptr<RequestState>> states;
  std::vector<int32_t> alone;
  for (size_t i = 0; i < kRows; ++i) {
    SamplingParams sampling;
    if (i % 8 == 1) sampling.temperature = 0;
    if (i % 8 == 2) sampling.top_k = 40;
    if (i % 8 == 3 || i % 8 == 7) sampling.top_p = 0.95;
    if (i % 8 == 4) sampling.min_p = 0.05;
    if (i % 8 == 5) sampling.typical_p = 0.9;
    if (i % 8 == 6) sampling.repetition_penalty = 1.3, sampling.frequency_penalty = 0.5;
    if (i % 8 == 7) sampling.top_k = 3000;
    rows.push_back(random_logits(kVocab, i, static_cast<float>(i)));
    states.push_back(make_state(sampling, {1, 2, 3}, {5, 5, 6}, i));
    Sampler::Scratch fresh;
    alone.push_back(sampler.pick(rows[i].data(), *states[i]->sequences.front(), fresh));
  }
  for (int num_threads : {1, 2, 4}) {
    ThreadPool pool(num_threads);
    std::vector<Sampler::Scratch> scratches(static_cast<size_t>(num_threads));
    std::vector<int32_t> together(kRows);
    for (int repeat = 0; repeat < 3; ++repeat) {
      pool.parallel_for(kRows, 1, [&](int64_t begin, int64_t end, int worker) {
        for (size_t i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
          together[i] = sampler.pick(rows[i].data(), *states[i]->sequences.front(),
                                     scratches[static_cast<size_t>(worker)]);
        }
      });
      EXPECT_EQ(together, alone) << num_threads << " threads";
    }
  }
}

TEST(Sampler, LogprobsAreOfTheUntouchedLogits) {
  std::vector<float> logits = random_logits(3000, 8);
  logits[100] = logits[2000];  // equal ones: the lower token ranks first
  std::vector<double> exact;
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit));
  for (float logit : logits) exact.push_back(static_cast<double>(logit) - std::log(sum));
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  Sampler sampler(3000, {});
  Sampler::Scratch scratch;
  for (int num_top : {0, 1, 20, kAllLogprobs}) {
    for (int32_t token : {0, 100, 2000, 2999, order[0]}) {
      PositionLogprobs result = sampler.score(logits.data(), token, num_top, scratch);
      EXPECT_EQ(result.chosen.token, token);
      EXPECT_NEAR(result.chosen.logprob, exact[static_cast<size_t>(token)], 2e-6);
      EXPECT_EQ(order[static_cast<size_t>(result.chosen.rank) - 1], token);
      ASSERT_EQ(result.top.size(), num_top == kAllLogprobs ? 3000u : static_cast<size_t>(num_top));
      for (size_t i = 0; i < result.top.size(); ++i) {
        EXPECT_EQ(result.top[i].token, order[i]);
        EXPECT_EQ(result.top[i].rank, static_cast<int32_t>(i) + 1);
        EXPECT_NEAR(result.top[i].logprob, exact[static_cast<size_t>(order[i])], 2e-6);
      }
    }
  }
}

TEST(Sampler, SaysWhatIsWrongWithLogits) {
  Sampler sampler(40, {2});
  Sampler::Scratch scratch;
  auto message = [&](std::vector<float> logits, const SamplingParams& sampling) -> std::string {
    try {
      sampler.pick(logits.data(), *make_state(sampling)->sequences.front(), scratch);
    } catch (const Error& error) {
      return error.message();
    }
    return "";
  };
  for (float bad : {std::nanf(""), kInf}) {
    for (size_t where : {0u, 17u, 39u}) {
      std::vector<float> logits = random_logits(40, 1);
      logits[where] = bad;
      for (double temperature : {0.0, 1.0}) {
        SamplingParams sampling;
        sampling.temperature = temperature;
        EXPECT_THAT(message(logits, sampling), HasSubstr("not finite"));
        sampling.top_p = 0.5;
        EXPECT_THAT(message(logits, sampling), HasSubstr("not finite"));
      }
      EXPECT_THROW(sampler.score(logits.data(), 3, 2, scratch), Error);
    }
  }
  EXPECT_THROW(sampler.score(std::vector<float>(40, -kInf).data(), 3, 2, scratch), Error);
  SamplingParams none;
  none.allowed_token_ids = {2};
  none.min_tokens = 1;
  EXPECT_THAT(message(random_logits(40, 1), none), HasSubstr("exclude all"));
  SamplingParams plain;
  std::vector<float> one(40, -kInf);
  one[31] = -1e30f;
  EXPECT_EQ(message(one, plain), "");
}

TEST(Sampler, ValidatesParameters) {
  Sampler sampler(100, {2});
  struct Case {
    const char* param;
    std::function<void(SamplingParams&)> change;
  };
  const Case cases[] = {
      {"temperature", [](auto& s) { s.temperature = -0.1; }},
      {"temperature", [](auto& s) { s.temperature = std::nan(""); }},
      {"top_p", [](auto& s) { s.top_p = 0; }},
      {"top_p", [](auto& s) { s.top_p = 1.01; }},
      {"top_k", [](auto& s) { s.top_k = -2; }},
      {"min_p", [](auto& s) { s.min_p = -0.1; }},
      {"typical_p", [](auto& s) { s.typical_p = 0; }},
      {"repetition_penalty", [](auto& s) { s.repetition_penalty = 0; }},
      {"frequency_penalty", [](auto& s) { s.frequency_penalty = INFINITY; }},
      {"presence_penalty", [](auto& s) { s.presence_penalty = std::nan(""); }},
      {"logit_bias",
       [](auto& s) {
         s.logit_bias = {{100, 1.0f}};
       }},
      {"logit_bias",
       [](auto& s) {
         s.logit_bias = {{1, kInf}};
       }},
      {"bad_words", [](auto& s) { s.bad_words = {{}}; }},
      {"bad_words",
       [](auto& s) {
         s.bad_words = {{1, -1}};
       }},
      {"allowed_token_ids",
       [](auto& s) {
         s.allowed_token_ids = {1, 100};
       }},
      {"stop_token_ids", [](auto& s) { s.stop_token_ids = {-1}; }},
      {"max_tokens", [](auto& s) { s.max_tokens = -1; }},
      {"min_tokens", [](auto& s) { s.min_tokens = 17; }},
      {"logprobs", [](auto& s) { s.num_logprobs = -3; }},
      {"prompt_logprobs", [](auto& s) { s.num_prompt_logprobs = -3; }},
  };
  for (const Case& each : cases) {
    SamplingParams sampling;
    EXPECT_NO_THROW(sampler.validate(sampling));
    each.change(sampling);
    try {
      sampler.validate(sampling);
      ADD_FAILURE() << each.param << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.param(), each.param);
      EXPECT_EQ(error.code(), Code::kInvalidArgument);
    }
  }
}

}  // namespace
}  // namespace sluice::engine
