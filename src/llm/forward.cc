#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/trace.h"
#include "llm/transformer.h"

namespace sluice::llm {
namespace {

constexpr int64_t kFfnSpan = 8192;  // elements of one piece of an activation function
constexpr int64_t kLogitSpan = 1 << 15;

}  // namespace

void Transformer::forward(const Batch& batch, KvStore& kv, float* logits) {
  TRACE("llm.forward");
  for (const PageCopy& copy : batch.page_copies) kv.copy_page(copy.from, copy.to);
  if (batch.tokens.empty()) return;
  prepare(batch, kv);
  layer_ = -1;
  embed(batch);

  const Family& family = config_.family;
  const int64_t width = config_.width, query_width = config_.query_width(),
                kv_width = config_.kv_width();
  float* hidden = hidden_.data();
  for (int64_t i = 0; i < config_.num_layers(); ++i) {
    const LayerWeights& layer = weights_.layers[static_cast<size_t>(i)];
    layer_ = i;

    // Queries, keys and values of the new tokens.
    {
      TRACE("llm.qkv");
      const StepSize size = step_size(num_tokens_);
      FormatSet formats = formats_of({&layer.q, &layer.k, &layer.v}, size);
      if (family.shared_norm)
        formats |= formats_of({&layer.up, &layer.gate, &layer.router}, size) | expert_input_formats(layer, size);
      attention_input_.reset(num_tokens_, width, formats, size);
      for_each_row(pool_, num_tokens_, width, [&](int64_t t, int) {
        normalise(layer.attention_norm, hidden + t * width, attention_input_.row(t), width);
        attention_input_.convert(kernels_, t);
      });
      observe("attention norm", attention_input_.row(0), num_tokens_, width);
      const Product products[] = {
          {&layer.q, &attention_input_, 0, num_tokens_, q_.data(), query_width},
          {&layer.k, &attention_input_, 0, num_tokens_, k_.data(), kv_width},
          {&layer.v, &attention_input_, 0, num_tokens_, v_.data(), kv_width},
      };
      // Of the last layer, most tokens of a prompt leave nothing but their keys and values.
      if (i + 1 == config_.num_layers() && wants_fewer_rows(batch)) {
        run_products(pool_, kernels_, {products + 1, 2});
        rotate_and_store(i, kv, false, true);
        keep_logit_rows(batch);
        if (num_tokens_ == 0) return;
        const Product queries{&layer.q, &attention_input_, 0, num_tokens_, q_.data(), query_width};
        run_products(pool_, kernels_, {&queries, 1});
        rotate_and_store(i, kv, true, false);
      } else {
        run_products(pool_, kernels_, products);
        observe("q", q_.data(), num_tokens_, query_width);
        observe("k", k_.data(), num_tokens_, kv_width);
        observe("v", v_.data(), num_tokens_, kv_width);
        rotate_and_store(i, kv, true, true);
      }
      observe("q rotated", q_.data(), num_tokens_, query_width);
      observe("k rotated", k_.data(), num_tokens_, kv_width);
    }

    // Attention over everything in the pages.
    {
      TRACE("llm.attention");
      const StepSize size = step_size(num_tokens_);
      attention_output_.reset(num_tokens_, query_width, format_of(layer.output, size), size);
      attend(i, kv);
      observe("attention", attention_output_.row(0), num_tokens_, query_width);
      for_each_row(pool_, num_tokens_, query_width,
                   [&](int64_t t, int) { attention_output_.convert(kernels_, t); });
      const Product product{&layer.output, &attention_output_, 0,
                            num_tokens_,   branch_.data(),     width};
      run_products(pool_, kernels_, {&product, 1});
      observe("attention output", branch_.data(), num_tokens_, width);
    }

    // The feed-forward network, dense or of experts.
    {
      TRACE("llm.ffn");
      const bool is_parallel = family.parallel_residual;
      const bool is_shared = is_parallel && family.shared_norm;
      Activations& input = is_shared ? attention_input_ : ffn_input_;
      if (!is_shared) {
        const StepSize size = step_size(num_tokens_);
        ffn_input_.reset(
            num_tokens_, width,
            formats_of({&layer.up, &layer.gate, &layer.router}, size) | expert_input_formats(layer, size), size);
      }
      for_each_row(pool_, num_tokens_, width, [&](int64_t t, int worker) {
        float* h = hidden + t * width;
        if (!is_parallel)
          add_branch(layer.attention_post_norm, branch_.data() + t * width, h, worker);
        if (is_shared) return;
        normalise(layer.ffn_norm, h, ffn_input_.row(t), width);
        ffn_input_.convert(kernels_, t);
      });
      if (!is_parallel) observe("after attention", hidden, num_tokens_, width);
      observe("ffn norm", input.row(0), num_tokens_, width);
      if (layer.experts.empty()) {
        run_ffn(layer, input, ffn_branch_.data());
      } else {
        run_experts(layer, input, ffn_branch_.data());
      }
      observe("ffn", ffn_branch_.data(), num_tokens_, width);
      for_each_row(pool_, num_tokens_, width, [&](int64_t t, int worker) {
        float* h = hidden + t * width;
        if (is_parallel)
          add_branch(layer.attention_post_norm, branch_.data() + t * width, h, worker);
        add_branch(layer.ffn_post_norm, ffn_branch_.data() + t * width, h, worker);
      });
      observe("output", hidden, num_tokens_, width);
    }
  }
  layer_ = -1;
  compute_logits(batch, logits);
}

// Where each token goes, the rotations of its position, the pieces of attention, and room for
// everything.
void Transformer::prepare(const Batch& batch, const KvStore& kv) {
  TRACE("llm.prepare");
  num_tokens_ = static_cast<int64_t>(batch.tokens.size());
  const int64_t width = config_.width;
  hidden_.grow(num_tokens_ * width);
  branch_.grow(num_tokens_ * width);
  ffn_branch_.grow(num_tokens_ * width);
  scratch_rows_.grow(pool_.num_threads() * width);
  q_.grow(num_tokens_ * config_.query_width());
  k_.grow(num_tokens_ * config_.kv_width());
  v_.grow(num_tokens_ * config_.kv_width());

  CHECK(kv.layout().num_layers == config_.num_layers() &&
            kv.layout().num_kv_heads == config_.num_kv_heads &&
            kv.layout().head_dim == config_.head_dim,
        kv.layout().num_layers, kv.layout().num_kv_heads, kv.layout().head_dim);
  places_.resize(static_cast<size_t>(num_tokens_));
  has_logit_rows_only_ = false;
  int64_t next_token = 0;
  for (const BatchSequence& sequence : batch.sequences) {
    CHECK(sequence.first_token == next_token && sequence.num_tokens >= 1 &&
              sequence.first_position >= 0,
          sequence.first_token, next_token, sequence.num_tokens, sequence.first_position);
    next_token += sequence.num_tokens;
    CHECK(next_token <= num_tokens_, next_token, num_tokens_);
    int64_t end = sequence.first_position + sequence.num_tokens;
    CHECK(!config_.family.learned_positions || end <= config_.max_positions, end,
          config_.max_positions);
    for (int64_t page = 0; page * kernels::kPageSize < end; ++page) {
      CHECK(sequence.pages[page] >= 0 && sequence.pages[page] < kv.num_pages(),
            sequence.pages[page], kv.num_pages());
    }
    for (int64_t t = 0; t < sequence.num_tokens; ++t) {
      int64_t position = sequence.first_position + t;
      places_[static_cast<size_t>(sequence.first_token + t)] = {
          .position = position,
          .page = sequence.pages[position / kernels::kPageSize],
          .row = static_cast<int32_t>(position % kernels::kPageSize)};
    }
  }
  CHECK(next_token == num_tokens_, next_token, num_tokens_);

  query_runs_.clear();
  for (const BatchSequence& sequence : batch.sequences) {
    query_runs_.push_back({.pages = sequence.pages,
                           .first_row = sequence.first_token,
                           .first_position = sequence.first_position,
                           .num_queries = sequence.num_tokens});
  }
  plan_attention();

  // Angles in double: at position 100,000 a float's are off by whole steps.
  for (size_t r = 0; r < config_.ropes.size(); ++r) {
    const Rope& rope = config_.ropes[r];
    const int64_t half = rope.dims / 2;
    if (rope.kind == RopeKind::kNone) continue;
    rotations_[r].cosines.grow(num_tokens_ * half);
    rotations_[r].sines.grow(num_tokens_ * half);
    for_each_row(pool_, num_tokens_, half * 16, [&](int64_t t, int) {
      double position = static_cast<double>(places_[static_cast<size_t>(t)].position);
      for (int64_t i = 0; i < half; ++i) {
        double angle = position * rope.frequencies[static_cast<size_t>(i)];
        rotations_[r].cosines.data()[t * half + i] =
            static_cast<float>(std::cos(angle) * rope.magnitude);
        rotations_[r].sines.data()[t * half + i] =
            static_cast<float>(std::sin(angle) * rope.magnitude);
      }
    });
  }
}

void Transformer::embed(const Batch& batch) {
  TRACE("llm.embed");
  const int64_t width = config_.width;
  const TensorView& table = weights_.embedding.weight;
  const int64_t bytes = row_bytes(table.type, width);
  const TensorView& positions = weights_.positions;
  for_each_row(pool_, num_tokens_, width, [&](int64_t t, int worker) {
    int32_t token = batch.tokens[static_cast<size_t>(t)];
    CHECK(token >= 0 && token < config_.vocab_size, token, config_.vocab_size);
    float* h = hidden_.data() + t * width;
    kernels_.dequantize[static_cast<int>(table.type)](table.data + token * bytes, h, width);
    float factor = config_.embedding_scale *
                   (weights_.embedding.scale != nullptr ? weights_.embedding.scale[token] : 1.0f);
    if (factor != 1) kernels_.scale(h, factor, h, width);
    if (positions.data == nullptr) return;
    float* row = scratch_rows_.data() + worker * width;
    int64_t position = places_[static_cast<size_t>(t)].position;
    kernels_.dequantize[static_cast<int>(positions.type)](
        positions.data + position * row_bytes(positions.type, width), row, width);
    kernels_.add(h, row, h, width);
  });
  observe("embedding", hidden_.data(), num_tokens_, width);
}

void Transformer::run_ffn(const LayerWeights& layer, Activations& input, float* output) {
  const int64_t ffn_width = config_.ffn_width;
  ffn_hidden_.reset(num_tokens_, ffn_width, format_of(layer.down, input.size()), input.size());
  if (layer.gate) {
    up_.grow(num_tokens_ * ffn_width);
    const Product products[] = {
        {&layer.gate, &input, 0, num_tokens_, ffn_hidden_.row(0), ffn_width},
        {&layer.up, &input, 0, num_tokens_, up_.data(), ffn_width}};
    run_products(pool_, kernels_, products);
  } else {
    const Product product{&layer.up, &input, 0, num_tokens_, ffn_hidden_.row(0), ffn_width};
    run_products(pool_, kernels_, {&product, 1});
  }
  activate(ffn_hidden_, layer.gate ? up_.data() : nullptr, num_tokens_, ffn_width);
  observe("ffn hidden", ffn_hidden_.row(0), num_tokens_, ffn_width);
  const Product product{&layer.down, &ffn_hidden_, 0, num_tokens_, output, config_.width};
  run_products(pool_, kernels_, {&product, 1});
}

// x = act(x) * up in place, or act(x) without an up, and into the formats of the next product.
void Transformer::activate(Activations& x, const float* up, int64_t num_rows, int64_t num_columns) {
  const int64_t spans = (num_columns + kFfnSpan - 1) / kFfnSpan;
  for_each_row(pool_, num_rows * spans, std::min(num_columns, kFfnSpan), [&](int64_t index, int) {
    int64_t row = index / spans, begin = index % spans * kFfnSpan,
            end = std::min(begin + kFfnSpan, num_columns);
    int64_t count = end - begin;
    float* g = x.row(row) + begin;
    const float* u = up == nullptr ? nullptr : up + row * num_columns + begin;
    switch (config_.family.activation) {
      case Activation::kSilu:
        if (u != nullptr) {
          kernels_.silu_multiply(g, u, g, count);
        } else {
          for (int64_t i = 0; i < count; ++i) g[i] = g[i] / (1 + std::exp(-g[i]));
        }
        break;
      case Activation::kGeluTanh:
        if (u != nullptr) {
          kernels_.gelu_multiply(g, u, g, count);
        } else {
          kernels_.gelu_tanh(g, g, count);
        }
        break;
      case Activation::kGeluErf:
        kernels_.gelu_erf(g, g, count);
        if (u != nullptr) {
          for (int64_t i = 0; i < count; ++i) g[i] *= u[i];
        }
        break;
    }
    x.convert(kernels_, row, begin, end);
  });
}

void Transformer::compute_logits(const Batch& batch, float* logits) {
  if (batch.logit_tokens.empty()) return;
  TRACE("llm.logits");
  const int64_t num_rows = static_cast<int64_t>(batch.logit_tokens.size()), width = config_.width,
                vocab = config_.vocab_size;
  logit_input_.reset(num_rows, width, format_of(weights_.head, step_size(num_rows)), step_size(num_rows));
  for_each_row(pool_, num_rows, width, [&](int64_t r, int) {
    int64_t token = has_logit_rows_only_ ? r : batch.logit_tokens[static_cast<size_t>(r)];
    CHECK(token >= 0 && token < num_tokens_, token, num_tokens_);
    normalise(weights_.final_norm, hidden_.data() + token * width, logit_input_.row(r), width);
    logit_input_.convert(kernels_, r);
  });
  observe("final norm", logit_input_.row(0), num_rows, width);
  const Product product{&weights_.head, &logit_input_, 0, num_rows, logits, vocab};
  run_products(pool_, kernels_, {&product, 1});
  if (config_.logit_scale != 1 || config_.logit_softcap != 0) {
    const int64_t spans = (vocab + kLogitSpan - 1) / kLogitSpan;
    for_each_row(pool_, num_rows * spans, std::min(vocab, kLogitSpan), [&](int64_t index, int) {
      int64_t begin = index % spans * kLogitSpan, count = std::min(kLogitSpan, vocab - begin);
      float* row = logits + index / spans * vocab + begin;
      if (config_.logit_scale != 1) kernels_.scale(row, config_.logit_scale, row, count);
      if (config_.logit_softcap != 0) kernels_.softcap(row, config_.logit_softcap, row, count);
    });
  }
  observe("logits", logits, num_rows, vocab);
}

// Without a norm a copy: families with post norms only read the residual stream as it is.
void Transformer::normalise(const Norm& norm, const float* x, float* out, int64_t size) const {
  if (!norm) {
    if (x != out) std::memcpy(out, x, static_cast<size_t>(size) * sizeof(float));
  } else if (config_.family.norm == NormKind::kRms) {
    kernels_.rms_norm(x, norm.weight, out, size, config_.norm_epsilon);
  } else {
    kernels_.layer_norm(x, norm.weight, norm.bias, out, size, config_.norm_epsilon);
  }
}

void Transformer::add_branch(const Norm& post_norm, const float* branch, float* hidden,
                             int worker) {
  const int64_t width = config_.width;
  if (post_norm) {
    float* row = scratch_rows_.data() + worker * width;
    normalise(post_norm, branch, row, width);
    branch = row;
  }
  if (config_.residual_scale != 1) {
    kernels_.multiply_add(branch, config_.residual_scale, hidden, width);
  } else {
    kernels_.add(hidden, branch, hidden, width);
  }
}

void Transformer::observe(const char* stage, const float* data, int64_t num_rows,
                          int64_t num_columns) {
  if (!observer_) return;
  observer_(layer_ < 0 ? stage : fmt::format("layer {} {}", layer_, stage), data, num_rows,
            num_columns);
}

}  // namespace sluice::llm
