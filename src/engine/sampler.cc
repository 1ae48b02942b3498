#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/random.h"

namespace sluice::engine {
namespace {

using Candidate = Sampler::Candidate;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Below this, vLLM and we take the temperature for 0.
constexpr double kMinTemperature = 1e-5;
// Loops over a row go by lanes of this many floats, which the compiler turns into vector code.
constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 1024;

// e^x for x <= 0; 0 below -87. Relative error about 2e-7. Branch-free: 2^n from the exponent bits,
// 2^f from its series.
inline float exp_negative(float x) {
  float scaled = std::max(x, -87.0f) * 1.44269504f;
  // 1.5 * 2^23: the low mantissa bits of the sum are round(scaled).
  float shifted = scaled + 12582912.0f;
  float f = scaled - (shifted - 12582912.0f);
  float power = 0.000154035304f;
  power = power * f + 0.00133335581f;
  power = power * f + 0.00961812911f;
  power = power * f + 0.0555041087f;
  power = power * f + 0.240226507f;
  power = power * f + 0.693147181f;
  power = power * f + 1.0f;
  float whole = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) + 127u) << 23);
  return x < -87.0f ? 0.0f : power * whole;
}

// The largest of the row. Throws if there is a NaN or +infinity.
float find_max(const float* x, int64_t n) {
  float best[kLanes];
  int32_t bad[kLanes];
  std::fill_n(best, kLanes, -kInfinity);
  std::fill_n(bad, kLanes, 0);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      float value = x[i + lane];
      best[lane] = value > best[lane] ? value : best[lane];
      bad[lane] |= value < kInfinity ? 0 : 1;
    }
  }
  float result = -kInfinity;
  int32_t any_bad = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    result = std::max(result, best[lane]);
    any_bad |= bad[lane];
  }
  for (; i < n; ++i) {
    result = x[i] > result ? x[i] : result;
    any_bad |= x[i] < kInfinity ? 0 : 1;
  }
  if (any_bad != 0) {
    fail(Code::kInternal,
         "the model computed logits that are not finite numbers; its weights or the prompt "
         "overflow");
  }
  return result;
}

// Sum of e^((x - max) * scale), and of each block of kBlock if asked for.
double sum_weights(const float* x, int64_t n, float max, float scale,
                   std::vector<double>* block_sums) {
  if (block_sums != nullptr) block_sums->clear();
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int64_t end = std::min(n, begin + kBlock);
    float lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane)
        lanes[lane] += exp_negative((x[i + lane] - max) * scale);
    }
    double sum = 0;
    for (float lane : lanes) sum += static_cast<double>(lane);
    for (; i < end; ++i) sum += static_cast<double>(exp_negative((x[i] - max) * scale));
    if (block_sums != nullptr) block_sums->push_back(sum);
    total += sum;
  }
  return total;
}

bool is_better(const Candidate& a, const Candidate& b) {
  return a.key != b.key ? a.key > b.key : a.token < b.token;
}

// Calls take(token, logit) for the logits above `threshold`, which take may raise, in ascending
// order of tokens.
template <typename Take>
void scan_above(const float* x, int64_t n, float& threshold, Take&& take) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    int32_t any = 0;
    float current = threshold;
    for (int64_t lane = 0; lane < kLanes; ++lane) any |= x[i + lane] > current ? 1 : 0;
    if (any == 0) continue;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      if (x[i + lane] > threshold) take(static_cast<int32_t>(i + lane), x[i + lane]);
    }
  }
  for (; i < n; ++i) {
    if (x[i] > threshold) take(static_cast<int32_t>(i), x[i]);
  }
}

float just_below(float value) {
  return std::nextafter(value, -kInfinity);
}

// The k best logits that are at least `low`, in no order; of equal ones the lower tokens. Keeps
// between k and 2k of them and raises the threshold whenever it discards: after the first few
// thousand tokens hardly any passes it.
void select_top_k(const float* x, int64_t n, int64_t k, float low, std::vector<Candidate>& out) {
  out.clear();
  size_t keep = static_cast<size_t>(std::min(k, n));
  size_t limit = std::min(static_cast<size_t>(n), 2 * keep + 64);
  float threshold = low > -kInfinity ? just_below(low) : -kInfinity;
  auto shrink = [&] {
    std::nth_element(out.begin(), out.begin() + static_cast<int64_t>(keep) - 1, out.end(),
                     is_better);
    out.resize(keep);
    threshold = out.back().key;  // later tokens with the same logit come after those kept
  };
  scan_above(x, n, threshold, [&](int32_t token, float logit) {
    out.push_back({.key = logit, .weight = 0, .token = token});
    if (out.size() >= limit && out.size() > keep) shrink();
  });
  if (out.size() > keep) shrink();
}

void select_above(const float* x, int64_t n, float low, std::vector<Candidate>& out) {
  out.clear();
  float threshold = low > -kInfinity ? just_below(low) : -kInfinity;
  scan_above(x, n, threshold, [&](int32_t token, float logit) {
    out.push_back({.key = logit, .weight = 0, .token = token});
  });
}

double weigh(std::vector<Candidate>& candidates, float max, float scale) {
  double sum = 0;
  for (Candidate& candidate : candidates) {
    candidate.weight = exp_negative((candidate.key - max) * scale);
    sum += static_cast<double>(candidate.weight);
  }
  return sum;
}

// Keeps the fewest best candidates whose weights reach `target`, at least one. Partitions as
// quickselect does and descends into the side where the target is reached.
void keep_mass(std::vector<Candidate>& candidates, double target) {
  // What is before begin is kept, what is from end on is not.
  size_t begin = 0, end = candidates.size();
  double kept = 0;
  while (end - begin > 32) {
    size_t middle = begin + (end - begin) / 2;
    Candidate three[] = {candidates[begin], candidates[middle], candidates[end - 1]};
    std::sort(three, three + 3, is_better);
    Candidate pivot = three[1];
    double sum = 0;
    auto split = std::partition(candidates.begin() + static_cast<int64_t>(begin),
                                candidates.begin() + static_cast<int64_t>(end),
                                [&](const Candidate& candidate) {
                                  bool goes_first = !is_better(pivot, candidate);
                                  if (goes_first) sum += static_cast<double>(candidate.weight);
                                  return goes_first;
                                });
    size_t after =
        static_cast<size_t>(split - candidates.begin());  // the pivot is before, so after > begin
    if (kept + sum >= target && after < end) {
      end = after;
    } else if (kept + sum >= target) {
      break;  // the pivot was the worst: no progress, but the rest can be sorted
    } else {
      kept += sum;
      begin = after;
    }
  }
  std::sort(candidates.begin() + static_cast<int64_t>(begin),
            candidates.begin() + static_cast<int64_t>(end), is_better);
  while (begin < end) {
    kept += static_cast<double>(candidates[begin++].weight);
    if (kept >= target) break;
  }
  candidates.resize(std::max<size_t>(begin, 1));
}

// Locally typical sampling (Meister et al. 2022): the fewest candidates of weight `mass` whose
// surprise is nearest to the entropy.
void keep_typical(std::vector<Candidate>& candidates, double mass) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += static_cast<double>(candidate.weight);
  std::erase_if(candidates, [](const Candidate& candidate) { return candidate.weight <= 0; });
  double entropy = 0;
  for (const Candidate& candidate : candidates) {
    double p = static_cast<double>(candidate.weight) / sum;
    entropy -= p * std::log(p);
  }
  for (Candidate& candidate : candidates) {
    double surprise = -std::log(static_cast<double>(candidate.weight) / sum);
    candidate.key = static_cast<float>(-std::abs(surprise - entropy));
  }
  keep_mass(candidates, mass * sum);
}

int32_t draw_candidate(const std::vector<Candidate>& candidates, double uniform) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += static_cast<double>(candidate.weight);
  double target = uniform * sum;
  int32_t last = candidates.front().token;
  for (const Candidate& candidate : candidates) {
    if (candidate.weight <= 0) continue;
    last = candidate.token;
    target -= static_cast<double>(candidate.weight);
    if (target < 0) return last;
  }
  return last;
}

int64_t find_first(const float* x, int64_t n, float value) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    int32_t any = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) any |= x[i + lane] == value ? 1 : 0;
    if (any != 0) break;
  }
  while (x[i] != value) ++i;
  return i;
}

void check_range(const char* name, double value, double low, double high, const char* range) {
  if (!(value >= low && value <= high))
    fail_param(name, "{} must be {}, not {}", name, range, value);
}

}  // namespace

Sampler::Sampler(int64_t vocab_size, std::vector<int32_t> end_tokens)
    : vocab_size_(vocab_size), end_tokens_(std::move(end_tokens)) {}

void Sampler::validate(const SamplingParams& sampling) const {
  check_range("temperature", sampling.temperature, 0, 1e4, "between 0 and 10000");
  if (sampling.top_k < -1)
    fail_param("top_k", "top_k must be -1 or 0 (off) or at least 1, not {}", sampling.top_k);
  check_range("top_p", sampling.top_p, std::numeric_limits<double>::min(), 1,
              "above 0 and at most 1");
  check_range("min_p", sampling.min_p, 0, 1, "between 0 and 1");
  check_range("typical_p", sampling.typical_p, std::numeric_limits<double>::min(), 1,
              "above 0 and at most 1");
  check_range("repetition_penalty", sampling.repetition_penalty, 1e-6, 1e6, "above 0");
  check_range("frequency_penalty", sampling.frequency_penalty, -1e4, 1e4, "a finite number");
  check_range("presence_penalty", sampling.presence_penalty, -1e4, 1e4, "a finite number");
  auto check_token = [&](const char* name, int32_t token) {
    if (token < 0 || token >= vocab_size_) {
      fail_param(name, "{}: token id {} is outside the model's vocabulary of {} tokens", name,
                 token, vocab_size_);
    }
  };
  for (const auto& [token, bias] : sampling.logit_bias) {
    check_token("logit_bias", token);
    if (!(bias <= 1e6f)) {  // -infinity bans a token and is fine
      fail_param("logit_bias", "logit_bias of token {} must be a number of at most 1000000, not {}",
                 token, bias);
    }
  }
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    if (word.empty()) fail_param("bad_words", "bad_words: a word without tokens");
    for (int32_t token : word) check_token("bad_words", token);
  }
  for (int32_t token : sampling.allowed_token_ids) check_token("allowed_token_ids", token);
  for (int32_t token : sampling.stop_token_ids) {
    if (token < 0) fail_param("stop_token_ids", "stop_token_ids: token id {} is negative", token);
  }
  if (sampling.max_tokens < 0)
    fail_param("max_tokens", "max_tokens must not be negative, and is {}", sampling.max_tokens);
  if (sampling.min_tokens < 0 ||
      (sampling.min_tokens > sampling.max_tokens && sampling.max_tokens > 0)) {
    fail_param("min_tokens", "min_tokens must be between 0 and max_tokens ({}), not {}",
               sampling.max_tokens, sampling.min_tokens);
  }
  for (auto [name, count] : {std::pair("logprobs", sampling.num_logprobs),
                             std::pair("prompt_logprobs", sampling.num_prompt_logprobs)}) {
    if (count < kAllLogprobs)
      fail_param(name, "{} must be -1 (all) or at least 0, not {}", name, count);
  }
}

int32_t Sampler::pick(float* logits, const Sequence& sequence, Scratch& scratch) const {
  const SamplingParams& sampling = sequence.request->sampling();
  scratch.undo.clear();
  float* row = logits;
  if (!sampling.allowed_token_ids.empty()) {
    scratch.row.assign(static_cast<size_t>(vocab_size_), -kInfinity);
    for (int32_t token : sampling.allowed_token_ids)
      scratch.row[static_cast<size_t>(token)] = logits[token];
    row = scratch.row.data();
  }
  auto set = [&](int32_t token, float value) {
    scratch.undo.emplace_back(token, row[token]);
    row[token] = value;
  };
  if (sequence.num_generated() < sampling.min_tokens) {
    for (int32_t token : end_tokens_) {
      if (token >= 0 && token < vocab_size_) set(token, -kInfinity);
    }
    for (int32_t token : sampling.stop_token_ids) {
      if (token < vocab_size_) set(token, -kInfinity);
    }
  }
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    int64_t length = static_cast<int64_t>(word.size()) - 1;
    bool is_begun = length <= sequence.num_generated() &&
                    std::equal(word.begin(), word.end() - 1, sequence.tokens.end() - length);
    if (is_begun) set(word.back(), -kInfinity);
  }
  for (const auto& [token, bias] : sampling.logit_bias) set(token, row[token] + bias);
  if (sequence.request->counts_tokens) {
    float repetition = static_cast<float>(sampling.repetition_penalty);
    for (const auto& [token, count] : sequence.output_counts) {
      float logit = row[token];
      if (repetition != 1.0f) logit = logit > 0 ? logit / repetition : logit * repetition;
      if (count > 0) {
        logit -= static_cast<float>(sampling.frequency_penalty * count + sampling.presence_penalty);
      }
      if (logit != row[token]) set(token, logit);
    }
  }
  struct Restore {
    float* row;
    const std::vector<std::pair<int32_t, float>>& undo;
    ~Restore() {
      for (size_t i = undo.size(); i-- > 0;) row[undo[i].first] = undo[i].second;
    }
  } restore{row, scratch.undo};
  return draw(row, sequence, scratch);
}

int32_t Sampler::draw(const float* logits, const Sequence& sequence, Scratch& scratch) const {
  const SamplingParams& sampling = sequence.request->sampling();
  float max = find_max(logits, vocab_size_);
  if (max == -kInfinity) {
    fail(Code::kInvalidArgument,
         "no token may come next: allowed_token_ids, bad_words, logit_bias and min_tokens together "
         "exclude all");
  }
  if (sampling.temperature < kMinTemperature || sampling.top_k == 1) {
    return static_cast<int32_t>(find_first(logits, vocab_size_, max));
  }
  float scale = static_cast<float>(1.0 / sampling.temperature);
  double uniform = sluice::uniform(sequence.request->seed, static_cast<uint64_t>(sequence.index),
                                   static_cast<uint64_t>(sequence.num_generated()));
  bool has_top_k = sampling.top_k > 0 && sampling.top_k < vocab_size_;
  bool has_top_p = sampling.top_p < 1, has_typical_p = sampling.typical_p < 1;
  float low = sampling.min_p > 0
                  ? max + static_cast<float>(sampling.temperature * std::log(sampling.min_p))
                  : -kInfinity;
  std::vector<Candidate>& candidates = scratch.candidates;

  if (!has_top_k && !has_top_p && !has_typical_p && sampling.min_p <= 0) {
    double target = uniform * sum_weights(logits, vocab_size_, max, scale, &scratch.block_sums);
    size_t block = 0;
    while (block + 1 < scratch.block_sums.size() && target >= scratch.block_sums[block])
      target -= scratch.block_sums[block++];
    int64_t begin = static_cast<int64_t>(block) * kBlock,
            end = std::min(vocab_size_, begin + kBlock);
    int64_t last = -1;
    for (int64_t i = begin; i < end; ++i) {
      float weight = exp_negative((logits[i] - max) * scale);
      if (weight <= 0) continue;
      last = i;
      target -= static_cast<double>(weight);
      if (target < 0) break;
    }
    // Rounding may carry the target past a block whose weights are all 0.
    return static_cast<int32_t>(last >= 0 ? last : find_first(logits, vocab_size_, max));
  }

  if (has_top_k) {
    select_top_k(logits, vocab_size_, sampling.top_k, low, candidates);
    double sum = weigh(candidates, max, scale);
    if (has_top_p) keep_mass(candidates, sampling.top_p * sum);
  } else if (sampling.min_p > 0 || !has_top_p) {
    select_above(logits, vocab_size_, low, candidates);
    double sum = weigh(candidates, max, scale);
    if (has_top_p) keep_mass(candidates, sampling.top_p * sum);
  } else {
    // Usually a few candidates near the maximum carry the mass, so those are collected first.
    double target = sampling.top_p * sum_weights(logits, vocab_size_, max, scale, nullptr);
    for (float distance : {4.0f, 9.0f, 18.0f, kInfinity}) {
      select_above(logits, vocab_size_, max - distance / scale, candidates);
      if (weigh(candidates, max, scale) >= target) break;
    }
    keep_mass(candidates, target);
  }
  if (has_typical_p) keep_typical(candidates, sampling.typical_p);
  return draw_candidate(candidates, uniform);
}

PositionLogprobs Sampler::score(const float* logits, int32_t token, int num_top,
                                Scratch& scratch) const {
  float max = find_max(logits, vocab_size_);
  if (max == -kInfinity)
    fail(Code::kInternal, "the model computed no finite logit; its weights or the prompt overflow");
  double log_sum =
      static_cast<double>(max) + std::log(sum_weights(logits, vocab_size_, max, 1.0f, nullptr));
  auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - log_sum);
  };
  // A token's rank counts those before it in the order of `top`: larger logits, then equal ones of
  // lower id.
  float own = logits[token];
  int64_t num_before = 0;
  for (int64_t begin = 0; begin < vocab_size_; begin += kBlock) {
    int64_t end = std::min(vocab_size_, begin + kBlock);
    int32_t lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += logits[i + lane] > own ? 1 : 0;
    }
    for (int32_t lane : lanes) num_before += lane;
    for (; i < end; ++i) num_before += logits[i] > own;
  }
  for (int64_t i = 0; i < token; ++i) num_before += logits[i] == own;
  PositionLogprobs result;
  result.chosen = {
      .token = token, .logprob = logprob(own), .rank = static_cast<int32_t>(num_before) + 1};

  int64_t count =
      num_top == kAllLogprobs ? vocab_size_ : std::min<int64_t>(std::max(num_top, 0), vocab_size_);
  if (count == 0) return result;
  std::vector<Candidate>& candidates = scratch.candidates;
  if (count == vocab_size_) {
    candidates.clear();
    for (int64_t i = 0; i < vocab_size_; ++i) {
      candidates.push_back({.key = logits[i], .weight = 0, .token = static_cast<int32_t>(i)});
    }
  } else {
    select_top_k(logits, vocab_size_, count, -kInfinity, candidates);
  }
  std::sort(candidates.begin(), candidates.end(), is_better);
  result.top.reserve(candidates.size());
  for (const Candidate& candidate : candidates) {
    result.top.push_back({.token = candidate.token,
                          .logprob = logprob(candidate.key),
                          .rank = static_cast<int32_t>(result.top.size()) + 1});
  }
  return result;
}

}  // namespace sluice::engine
