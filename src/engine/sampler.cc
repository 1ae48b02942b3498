#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/check.h"
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
// A draw chooses a block by the blocks' sums, then a token in it.
constexpr int64_t kBlock = 1024;
// So few candidates around a border are sorted rather than bisected further.
constexpr int64_t kFewCandidates = 256;

// What is kept of a row of keys: those above `key`, and of those equal to it the ones up to index `last`.
struct Cut {
  float key = 0;
  int64_t last = std::numeric_limits<int64_t>::max();

  bool keeps(float other, int64_t index) const {
    return other > key || (other == key && index <= last);
  }
};

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

bool is_better(const Candidate& a, const Candidate& b) {
  return a.key != b.key ? a.key > b.key : a.index < b.index;
}

float just_above(float value) {
  return std::nextafter(value, kInfinity);
}

// Calls take(index, value) for the values that is_wanted(value), in ascending order. They are few: a
// group of lanes without any costs no branch but one.
template <typename IsWanted, typename Take>
void scan(const float* x, int64_t n, IsWanted is_wanted, Take&& take) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    int32_t any = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) any |= is_wanted(x[i + lane]) ? 1 : 0;
    if (any == 0) continue;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      if (is_wanted(x[i + lane])) take(static_cast<int32_t>(i + lane), x[i + lane]);
    }
  }
  for (; i < n; ++i) {
    if (is_wanted(x[i])) take(static_cast<int32_t>(i), x[i]);
  }
}

// The k best values, in no order; of equal ones those that come first. Keeps between k and 2k of
// them and raises the threshold whenever it discards: after the first few thousand hardly any passes
// it.
void select_top_k(const float* x, int64_t n, int64_t k, std::vector<Candidate>& out) {
  out.clear();
  size_t keep = static_cast<size_t>(std::min(k, n));
  size_t limit = std::min(static_cast<size_t>(n), 2 * keep + 64);
  float threshold = -kInfinity;
  auto shrink = [&] {
    std::nth_element(out.begin(), out.begin() + static_cast<int64_t>(keep) - 1, out.end(),
                     is_better);
    out.resize(keep);
    threshold = out.back().key;  // later ones that are equal come after those kept
  };
  scan(
      x, n, [&](float value) { return value > threshold; },
      [&](int32_t index, float value) {
        out.push_back({.key = value, .weight = 0, .index = index});
        if (out.size() >= limit && out.size() > keep) shrink();
      });
  if (out.size() > keep) shrink();
}

// The cut that keeps the fewest entries, best keys first, whose weights reach `target`. REQUIRES: keys
// in [0, 1]; the weights of those with keys from `low` up reach it (or nearly: then all those are kept).
//
// Bisection of the key, in the order of floats as integers: every second guess is the middle, so that
// thirty pairs are the worst case, and every other one interpolates the mass, which mostly comes near
// at once.
Cut find_cut(const kernels::Kernels& kernels, const float* keys, const float* weights, int64_t n,
             float low, double target, std::vector<Candidate>& candidates) {
  // From low_bits up the target is reached, from high_bits up it is not.
  uint32_t low_bits = std::bit_cast<uint32_t>(low),
           high_bits = std::bit_cast<uint32_t>(just_above(1.0f));
  int64_t num_low = 0, num_high = 0;
  double sum_low = kernels.sum_at_least(keys, weights, low, n, &num_low), sum_high = 0;
  for (int look = 0; num_low - num_high > kFewCandidates && high_bits - low_bits > 1; ++look) {
    double share = look % 2 == 1 ? 0.5 : (target - sum_high) / (sum_low - sum_high);
    uint32_t gap = high_bits - low_bits;
    double down = std::isfinite(share) ? share * static_cast<double>(gap) : 1;
    uint32_t middle = high_bits - static_cast<uint32_t>(std::clamp(
                                      down, 1.0, static_cast<double>(gap - 1)));
    int64_t num = 0;
    double sum = kernels.sum_at_least(keys, weights, std::bit_cast<float>(middle), n, &num);
    if (sum >= target) {
      low_bits = middle, num_low = num, sum_low = sum;
    } else {
      high_bits = middle, num_high = num, sum_high = sum;
    }
  }
  const float first = std::bit_cast<float>(low_bits), end = std::bit_cast<float>(high_bits);
  candidates.clear();
  scan(
      keys, n, [=](float key) { return (key >= first) & (key < end); },
      [&](int32_t index, float key) {
        candidates.push_back({.key = key, .weight = weights[index], .index = index});
      });
  // Without a float in between they are equal, in order, and possibly many.
  if (high_bits - low_bits > 1) std::sort(candidates.begin(), candidates.end(), is_better);
  Cut cut{.key = end};
  double sum = sum_high;
  for (const Candidate& candidate : candidates) {
    cut = {.key = candidate.key, .last = candidate.index};
    sum += static_cast<double>(candidate.weight);
    if (sum >= target) break;
  }
  return cut;
}

// The index at which the weights that the cut keeps, added up in order, pass `uniform` of their sum; -1
// if all are 0.
int64_t draw_index(const kernels::Kernels& kernels, const float* keys, const float* weights,
                   int64_t n, const Cut& cut, double uniform, Sampler::Scratch& scratch) {
  scratch.block_sums.clear();
  scratch.num_kept = 0;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int64_t end = std::min(n, begin + kBlock), count = 0;
    double sum = 0;
    if (begin <= cut.last && cut.last < end - 1) {
      for (int64_t i = begin; i < end; ++i) {
        if (!cut.keeps(keys[i], i)) continue;
        sum += static_cast<double>(weights[i]);
        ++count;
      }
    } else {
      float border = begin > cut.last ? just_above(cut.key) : cut.key;
      sum = kernels.sum_at_least(keys + begin, weights + begin, border, end - begin, &count);
    }
    scratch.num_kept += count;
    scratch.block_sums.push_back(sum);
    total += sum;
  }
  double target = uniform * total, rest = 0;
  int64_t chosen = -1, drawn = -1;
  for (size_t block = 0; block < scratch.block_sums.size(); ++block) {
    double sum = scratch.block_sums[block];
    if (sum <= 0) continue;
    chosen = static_cast<int64_t>(block);
    rest = target;
    target -= sum;
    if (target < 0) break;
  }
  if (chosen < 0) return -1;
  // Where rounding carries the target past the end, the last one is drawn.
  for (int64_t i = chosen * kBlock; i < std::min(n, (chosen + 1) * kBlock); ++i) {
    if (weights[i] <= 0 || !cut.keeps(keys[i], i)) continue;
    drawn = i;
    rest -= static_cast<double>(weights[i]);
    if (rest < 0) break;
  }
  return drawn;
}

// Locally typical sampling (Meister et al. 2022): keeps the fewest tokens of share `mass` whose
// surprise is nearest to the entropy. A token's surprise less the entropy is the mean log-weight less
// its own, so with c = e^mean the order is that of min(weight / c, c / weight). Fills keys, and sets
// the weights that `cut` drops to 0. The log-weight of x is (x - max) * scale.
Cut find_typical(const kernels::Kernels& kernels, const float* x, float max, float scale,
                 float* weights, int64_t n, const Cut& cut, double mass, std::vector<float>& keys,
                 std::vector<Candidate>& candidates) {
  const int32_t last = static_cast<int32_t>(std::min<int64_t>(cut.last, n));
  double sum = 0, sum_of_logs = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    float lanes[kLanes] = {}, log_lanes[kLanes] = {};
    for (int64_t first = begin; first < std::min(n, begin + kBlock); first += kLanes) {
      for (int64_t lane = 0; lane < std::min(kLanes, n - first); ++lane) {
        int64_t i = first + lane;
        float weight = weights[i];
        bool is_kept = (weight > cut.key) |
                       ((weight == cut.key) & (static_cast<int32_t>(i) <= last));
        weight = is_kept ? weight : 0.0f;
        weights[i] = weight;
        lanes[lane] += weight;
        log_lanes[lane] += weight * std::max((x[i] - max) * scale, -200.0f);
      }
    }
    for (float lane : lanes) sum += static_cast<double>(lane);
    for (float lane : log_lanes) sum_of_logs += static_cast<double>(lane);
  }
  const float center = static_cast<float>(std::exp(sum_of_logs / sum));
  if (keys.size() < static_cast<size_t>(n)) keys.resize(static_cast<size_t>(n));
  float* key = keys.data();
  for (int64_t i = 0; i < n; ++i) {
    // At least the smallest float: 0 / 0 cannot come up, and 0 stays the worst key.
    float weight = weights[i], other = std::max(weight, std::numeric_limits<float>::min());
    key[i] = std::min(weight / center, center / other);
  }
  return find_cut(kernels, key, weights, n, std::numeric_limits<float>::min(), mass * sum,
                  candidates);
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

Sampler::Sampler(int64_t vocab_size, std::vector<int32_t> end_tokens,
                 const kernels::Kernels& kernels)
    : vocab_size_(vocab_size), end_tokens_(std::move(end_tokens)), kernels_(kernels) {}

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
  // What there is to draw from: the whole row, or the top_k best.
  const float* x = logits;
  int64_t n = vocab_size_;
  bool has_top_k = sampling.top_k > 0 && sampling.top_k < vocab_size_;
  if (has_top_k) {
    std::vector<Candidate>& candidates = scratch.candidates;
    select_top_k(logits, n, sampling.top_k, candidates);
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.index < b.index; });
    scratch.logits.clear();
    scratch.tokens.clear();
    for (const Candidate& candidate : candidates) {
      scratch.logits.push_back(candidate.key);
      scratch.tokens.push_back(candidate.index);
    }
    x = scratch.logits.data();
    n = static_cast<int64_t>(candidates.size());
  }
  if (scratch.weights.size() < static_cast<size_t>(n)) scratch.weights.resize(static_cast<size_t>(n));
  float* weights = scratch.weights.data();  // of the best: 1
  float scale = static_cast<float>(1.0 / sampling.temperature);
  kernels_.exp_weights(x, max, scale, weights, n);

  const float* keys = weights;
  Cut cut{.key = static_cast<float>(sampling.min_p)};
  if (sampling.top_p < 1) {
    int64_t count = 0;
    double total = kernels_.sum_at_least(weights, weights, cut.key, n, &count);
    double target = sampling.top_p * total;
    // Weights below the mean of what may be dropped cannot add up to it; half of that allows for rounding.
    double low = 0.5 * (total - target) / static_cast<double>(n);
    cut = find_cut(kernels_, weights, weights, n, std::max(cut.key, static_cast<float>(low)),
                   target, scratch.candidates);
  }
  if (sampling.typical_p < 1) {
    cut = find_typical(kernels_, x, max, scale, weights, n, cut, sampling.typical_p, scratch.keys,
                       scratch.candidates);
    keys = scratch.keys.data();
  }
  double uniform = sluice::uniform(sequence.request->seed, static_cast<uint64_t>(sequence.index),
                                   static_cast<uint64_t>(sequence.num_generated()));
  int64_t drawn = draw_index(kernels_, keys, weights, n, cut, uniform, scratch);
  CHECK(drawn >= 0, n, max, scale);  // the best one's weight is 1
  return has_top_k ? scratch.tokens[static_cast<size_t>(drawn)] : static_cast<int32_t>(drawn);
}

PositionLogprobs Sampler::score(const float* logits, int32_t token, int num_top,
                                Scratch& scratch) const {
  float max = find_max(logits, vocab_size_);
  if (max == -kInfinity)
    fail(Code::kInternal, "the model computed no finite logit; its weights or the prompt overflow");
  double log_sum = kernels_.log_sum_exp(logits, vocab_size_);
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
      candidates.push_back({.key = logits[i], .weight = 0, .index = static_cast<int32_t>(i)});
    }
  } else {
    select_top_k(logits, vocab_size_, count, candidates);
  }
  std::sort(candidates.begin(), candidates.end(), is_better);
  result.top.reserve(candidates.size());
  for (const Candidate& candidate : candidates) {
    result.top.push_back({.token = candidate.index,
                          .logprob = logprob(candidate.key),
                          .rank = static_cast<int32_t>(result.top.size()) + 1});
  }
  return result;
}

}  // namespace sluice::engine
