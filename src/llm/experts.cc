// A mixture of experts: a router gives each token a probability for every expert, the best few
// compute it, and their results are summed with those probabilities as weights.
//
// Tokens are sorted by expert first, so that each expert's matrices are read once for all the
// tokens that chose them, and all experts share the barriers of the two products. The sum over a
// token's experts goes from the most probable to the least, so that it does not depend on which
// other tokens are there.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/trace.h"
#include "llm/transformer.h"

namespace sluice::llm {

FormatSet expert_input_formats(const LayerWeights& layer, StepSize size) {
  FormatSet set = 0;
  for (const ExpertWeights& expert : layer.experts) set |= formats_of({&expert.gate, &expert.up}, size);
  return set;
}

void Transformer::run_experts(const LayerWeights& layer, Activations& input, float* output) {
  TRACE("llm.experts");
  const int64_t num_experts = config_.num_experts, num_used = config_.num_experts_used;
  const int64_t width = config_.width, ffn_width = config_.expert_ffn_width,
                num_uses = num_tokens_ * num_used;
  router_logits_.grow(num_tokens_ * num_experts);
  const Product router{&layer.router, &input, 0, num_tokens_, router_logits_.data(), num_experts};
  run_products(pool_, kernels_, {&router, 1});
  observe("router", router_logits_.data(), num_tokens_, num_experts);
  choose_experts(num_tokens_, num_experts);

  FormatSet down_formats = 0;
  for (const ExpertWeights& expert : layer.experts) down_formats |= format_of(expert.down, input.size());
  expert_input_.reset(num_uses, width, expert_input_formats(layer, input.size()), input.size());
  ffn_hidden_.reset(num_uses, ffn_width, down_formats, input.size());
  up_.grow(num_uses * ffn_width);
  expert_output_.grow(num_uses * width);
  for_each_row(pool_, num_uses, width, [&](int64_t i, int) {
    const ExpertUse& use = uses_[static_cast<size_t>(i)];
    expert_input_.copy_row(use.row, input, use.token);
  });

  products_.clear();
  for (int64_t e = 0; e < num_experts; ++e) {
    const ExpertWeights& expert = layer.experts[static_cast<size_t>(e)];
    int64_t row = expert_rows_[static_cast<size_t>(e)],
            num_rows = expert_rows_[static_cast<size_t>(e) + 1] - row;
    if (num_rows == 0) continue;
    products_.push_back(
        {&expert.gate, &expert_input_, row, num_rows, ffn_hidden_.row(row), ffn_width});
    products_.push_back(
        {&expert.up, &expert_input_, row, num_rows, up_.data() + row * ffn_width, ffn_width});
  }
  run_products(pool_, kernels_, products_);
  activate(ffn_hidden_, up_.data(), num_uses, ffn_width);

  products_.clear();
  for (int64_t e = 0; e < num_experts; ++e) {
    const ExpertWeights& expert = layer.experts[static_cast<size_t>(e)];
    int64_t row = expert_rows_[static_cast<size_t>(e)],
            num_rows = expert_rows_[static_cast<size_t>(e) + 1] - row;
    if (num_rows == 0) continue;
    products_.push_back(
        {&expert.down, &ffn_hidden_, row, num_rows, expert_output_.data() + row * width, width});
  }
  run_products(pool_, kernels_, products_);

  for_each_row(pool_, num_tokens_, width * num_used, [&](int64_t t, int) {
    float* out = output + t * width;
    for (int64_t u = 0; u < num_used; ++u) {
      const ExpertUse& use = uses_[static_cast<size_t>(t * num_used + u)];
      const float* row = expert_output_.data() + use.row * width;
      if (u == 0) {
        kernels_.scale(row, use.weight, out, width);
      } else {
        kernels_.multiply_add(row, use.weight, out, width);
      }
    }
  });
}

// From router_logits_: uses_ (best first, lower number first among equals) and expert_rows_.
void Transformer::choose_experts(int64_t num_tokens, int64_t num_experts) {
  const int64_t num_used = config_.num_experts_used;
  uses_.resize(static_cast<size_t>(num_tokens * num_used));
  chosen_.resize(uses_.size());
  for_each_row(pool_, num_tokens, num_experts * 16, [&](int64_t t, int worker) {
    const float* logits = router_logits_.data() + t * num_experts;
    auto& ranking = workers_[static_cast<size_t>(worker)].ranking;
    ranking.resize(static_cast<size_t>(num_experts));
    for (int64_t e = 0; e < num_experts; ++e) {
      // A NaN would break the order that the sort relies on; it ranks last and shows in the result
      // anyway.
      ranking[static_cast<size_t>(e)] = {std::isnan(logits[e]) ? -INFINITY : logits[e],
                                         static_cast<int32_t>(e)};
    }
    std::partial_sort(ranking.begin(), ranking.begin() + num_used, ranking.end(),
                      [](const auto& a, const auto& b) {
                        return a.first != b.first ? a.first > b.first : a.second < b.second;
                      });
    // Softmax over all experts, then either the chosen ones' share of it or their share among
    // themselves.
    double sum = 0;
    const int64_t num_summed = config_.normalise_expert_weights ? num_used : num_experts;
    const float best = ranking[0].first;
    for (int64_t i = 0; i < num_summed; ++i) {
      float logit =
          config_.normalise_expert_weights ? ranking[static_cast<size_t>(i)].first : logits[i];
      sum += std::exp(static_cast<double>(logit) - best);
    }
    for (int64_t u = 0; u < num_used; ++u) {
      auto [logit, expert] = ranking[static_cast<size_t>(u)];
      size_t index = static_cast<size_t>(t * num_used + u);
      uses_[index] = {
          .token = static_cast<int32_t>(t),
          .row = 0,
          .weight = static_cast<float>(std::exp(static_cast<double>(logit) - best) / sum)};
      chosen_[index] = expert;
    }
  });

  // A counting sort by expert.
  expert_rows_.assign(static_cast<size_t>(num_experts) + 1, 0);
  for (int32_t expert : chosen_) ++expert_rows_[static_cast<size_t>(expert) + 1];
  for (size_t e = 1; e < expert_rows_.size(); ++e) expert_rows_[e] += expert_rows_[e - 1];
  std::vector<int64_t>& next = expert_rows_;
  for (size_t i = 0; i < uses_.size(); ++i)
    uses_[i].row = static_cast<int32_t>(next[static_cast<size_t>(chosen_[i])]++);
  // Each start has moved to its end, which is the next one's start.
  for (size_t e = expert_rows_.size() - 1; e > 0; --e) expert_rows_[e] = expert_rows_[e - 1];
  expert_rows_[0] = 0;
}

}  // namespace sluice::llm
