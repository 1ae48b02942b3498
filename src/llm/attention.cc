// What goes through the pages: rotated keys and values into them, and attention over them.
//
// The work of a layer is cut into pieces of one key/value head and as many queries of one sequence as make good use of
// each key. A piece that alone would keep the others waiting (a long context and few sequences) is cut further, along
// the context, at the borders of spans; its partial results are merged behind a barrier. Spans and the order of merging
// depend on positions only (kernels/attention.h), so no cut shows in the results.
#include "kernels/attention.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/trace.h"
#include "llm/transformer.h"

namespace sluice::llm {
namespace {

constexpr int64_t kMinAttentionWork = 64 << 10;  // multiply-adds: about a microsecond
constexpr int64_t kPiecesPerWorker = 4;  // of even work, so that a worker slowed by a neighbour leaves some to others
constexpr int64_t kPartialFloatsMax = 8 << 20;  // what would need more is not cut along the context

}  // namespace

void Transformer::rotate_and_store(int64_t layer_index, KvStore& kv, bool with_queries, bool with_keys) {
  TRACE("llm.store");
  const LayerWeights& layer = weights_.layers[static_cast<size_t>(layer_index)];
  const int rope_index = config_.layers[static_cast<size_t>(layer_index)].rope;
  const Rope& rope = config_.ropes[static_cast<size_t>(rope_index)];
  const Rotation& rotation = rotations_[static_cast<size_t>(rope_index)];
  const int64_t head_dim = config_.head_dim, half = rope.dims / 2;
  const auto rotate = rope.kind == RopeKind::kNeox ? kernels_.rope_neox : kernels_.rope_interleaved;
  const DType type = kv.layout().type;
  const bool is_full_width = config_.family.qk_norm == QkNorm::kFullWidth;

  auto norm_and_rotate = [&](const Norm& norm, float* x, int64_t num_heads, int64_t t) {
    if (norm && is_full_width) normalise(norm, x, x, num_heads * head_dim);
    for (int64_t head = 0; head < num_heads; ++head) {
      float* h = x + head * head_dim;
      if (norm && !is_full_width) normalise(norm, h, h, head_dim);
      if (rope.kind != RopeKind::kNone)
        rotate(h, rotation.cosines.data() + t * half, rotation.sines.data() + t * half, half);
    }
  };
  for_each_row(pool_, num_tokens_, config_.query_width() + 2 * config_.kv_width(), [&](int64_t t, int) {
    if (with_queries) norm_and_rotate(layer.q_norm, q_.data() + t * config_.query_width(), config_.num_heads, t);
    if (!with_keys) return;
    float* k = k_.data() + t * config_.kv_width();
    const float* v = v_.data() + t * config_.kv_width();
    norm_and_rotate(layer.k_norm, k, config_.num_kv_heads, t);
    const TokenPlace& place = places_[static_cast<size_t>(t)];
    for (int64_t head = 0; head < config_.num_kv_heads; ++head) {
      const int l = static_cast<int>(layer_index), h = static_cast<int>(head);
      kernels::store_key(kernels_, type, k + head * head_dim, head_dim, kv.key_page(l, place.page, h), place.row);
      kernels::store_value(kernels_, type, v + head * head_dim, head_dim, kv.value_page(l, place.page, h), place.row);
    }
  });
}

bool Transformer::wants_fewer_rows(const Batch& batch) const {
  return static_cast<int64_t>(batch.logit_tokens.size()) < num_tokens_;
}

// From here on the batch is the tokens whose logits are wanted. REQUIRES: the keys and values of all are stored.
void Transformer::keep_logit_rows(const Batch& batch) {
  const int64_t width = config_.width;
  const int rope_index = config_.layers.back().rope;
  const int64_t half = config_.ropes[static_cast<size_t>(rope_index)].dims / 2;
  const bool is_rotated = config_.ropes[static_cast<size_t>(rope_index)].kind != RopeKind::kNone;
  Rotation& rotation = rotations_[static_cast<size_t>(rope_index)];
  auto move_row = [](float* rows, int64_t from, int64_t to, int64_t size) {
    std::memcpy(rows + to * size, rows + from * size, static_cast<size_t>(size) * sizeof(float));
  };
  query_runs_.clear();
  size_t s = 0;
  int64_t last = -1;
  for (size_t r = 0; r < batch.logit_tokens.size(); ++r) {
    const int64_t row = static_cast<int64_t>(r), token = batch.logit_tokens[r];
    CHECK(token > last && token < num_tokens_, token, last, num_tokens_);
    while (token >= batch.sequences[s].first_token + batch.sequences[s].num_tokens) ++s;
    const BatchSequence& sequence = batch.sequences[s];
    if (!query_runs_.empty() && token == last + 1 && token != sequence.first_token) {
      ++query_runs_.back().num_queries;
    } else {
      query_runs_.push_back({.pages = sequence.pages,
                             .first_row = row,
                             .first_position = sequence.first_position + token - sequence.first_token,
                             .num_queries = 1});
    }
    last = token;
    if (token == row) continue;
    move_row(hidden_.data(), token, row, width);
    attention_input_.copy_row(row, attention_input_, token);
    places_[r] = places_[static_cast<size_t>(token)];
    if (!is_rotated) continue;
    move_row(rotation.cosines.data(), token, row, half);
    move_row(rotation.sines.data(), token, row, half);
  }
  num_tokens_ = static_cast<int64_t>(batch.logit_tokens.size());
  has_logit_rows_only_ = true;
  plan_attention();
}

// pieces_ and merges_ for query_runs_, and room for what they need.
void Transformer::plan_attention() {
  const int64_t group = config_.num_heads / config_.num_kv_heads;
  const int64_t queries_each = std::max<int64_t>(1, kernels::kAttentionRows / group);
  const int64_t partial_floats = kernels::attention_partial_floats(config_.head_dim);
  int64_t longest = 0;
  attention_work_ = 0;
  for (const QueryRun& run : query_runs_) {
    const int64_t end = run.first_position + run.num_queries;
    longest = std::max(longest, end);
    attention_work_ += run.num_queries * end * config_.query_width() * 2;
  }
  const int64_t fair_work = attention_work_ / (kPiecesPerWorker * pool_.num_threads());

  pieces_.clear();
  merges_.clear();
  int64_t num_floats = 0;
  for (const QueryRun& run : query_runs_) {
    // The last queries see most; begun first, they are not what everybody waits for in the end.
    const int64_t num_blocks = (run.num_queries + queries_each - 1) / queries_each;
    for (int64_t block = num_blocks - 1; block >= 0; --block) {
      AttentionPiece piece = {.run = run};
      piece.run.first_row += block * queries_each;
      piece.run.first_position += block * queries_each;
      piece.run.num_queries = std::min(queries_each, run.num_queries - block * queries_each);
      const int64_t end = piece.run.first_position + piece.run.num_queries;
      piece.span_end = (end + kernels::kAttentionSpan - 1) / kernels::kAttentionSpan;
      const int64_t floats = piece.span_end * piece.run.num_queries * group * partial_floats;
      const bool is_cut = pool_.num_threads() > 1 && piece.span_end > 1 &&
                          num_floats + floats * config_.num_kv_heads <= kPartialFloatsMax &&
                          piece.run.num_queries * end * group * config_.head_dim * 2 > fair_work;
      for (piece.kv_head = 0; piece.kv_head < config_.num_kv_heads; ++piece.kv_head) {
        if (!is_cut) {
          pieces_.push_back(piece);
          continue;
        }
        AttentionPiece part = piece;
        part.partials = num_floats;
        num_floats += floats;
        merges_.push_back(part);
        for (part.span_begin = 0; part.span_begin < piece.span_end; ++part.span_begin) {
          part.span_end = part.span_begin + 1;
          pieces_.push_back(part);
        }
      }
    }
  }

  partials_.grow(num_floats);
  const size_t num_pages = static_cast<size_t>((longest + kernels::kPageSize - 1) / kernels::kPageSize);
  for (Worker& worker : workers_) {
    worker.scratch.grow(kernels::attention_scratch_floats(group, config_.head_dim));
    worker.partials.grow(2 * queries_each * group * partial_floats);
    if (worker.key_pages.size() < num_pages) {
      worker.key_pages.resize(num_pages);
      worker.value_pages.resize(num_pages);
    }
  }
}

void Transformer::attend(int64_t layer_index, const KvStore& kv) {
  const LayerConfig& layer = config_.layers[static_cast<size_t>(layer_index)];
  const int64_t group = config_.num_heads / config_.num_kv_heads, head_dim = config_.head_dim;
  const int64_t stride = config_.query_width(), partial_floats = kernels::attention_partial_floats(head_dim);
  const DType type = kv.layout().type;

  auto attend_piece = [&](const AttentionPiece& piece, Worker& worker) {
    const QueryRun& run = piece.run;
    kernels::SpanRange spans = kernels::find_visible_spans(run.first_position, run.num_queries, layer.window);
    spans = {std::max(spans.begin, piece.span_begin), std::min(spans.end, piece.span_end)};
    if (spans.begin >= spans.end) return;
    const int64_t page_end =
        std::min(spans.end * kernels::kAttentionSpan, run.first_position + run.num_queries + kernels::kPageSize - 1) /
        kernels::kPageSize;
    for (int64_t page = spans.begin * (kernels::kAttentionSpan / kernels::kPageSize); page < page_end; ++page) {
      const int l = static_cast<int>(layer_index), h = static_cast<int>(piece.kv_head);
      worker.key_pages[static_cast<size_t>(page)] = kv.key_page(l, run.pages[page], h);
      worker.value_pages[static_cast<size_t>(page)] = kv.value_page(l, run.pages[page], h);
    }
    const int64_t offset = run.first_row * stride + piece.kv_head * group * head_dim;
    kernels::AttentionArgs args = {.queries = q_.data() + offset,
                                   .query_stride = stride,
                                   .key_pages = worker.key_pages.data(),
                                   .value_pages = worker.value_pages.data(),
                                   .begin = 0,
                                   .end = 0,
                                   .num_queries = run.num_queries,
                                   .group_size = group,
                                   .head_dim = head_dim,
                                   .first_position = run.first_position,
                                   .window = layer.window,
                                   .scale = layer.attention_scale,
                                   .softcap = config_.attention_softcap,
                                   .partials = worker.partials.data(),
                                   .scratch = worker.scratch.data()};
    if (piece.partials < 0) {
      kernels::attend(kernels_, type, args, attention_output_.row(0) + offset, stride);
    } else {
      args.partials = partials_.data() + piece.partials + spans.begin * run.num_queries * group * partial_floats;
      kernels::attend_span(kernels_, type, args, spans.begin);
    }
  };
  // Short contexts of few sequences are done sooner than a barrier.
  const int64_t num_pieces = static_cast<int64_t>(pieces_.size());
  const int64_t grain = kMinAttentionWork * num_pieces / std::max<int64_t>(1, attention_work_) + 1;
  pool_.parallel_for(num_pieces, grain, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i)
      attend_piece(pieces_[static_cast<size_t>(i)], workers_[static_cast<size_t>(worker)]);
  });

  pool_.parallel_for(static_cast<int64_t>(merges_.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const AttentionPiece& piece = merges_[static_cast<size_t>(i)];
      const QueryRun& run = piece.run;
      const int64_t rows = run.num_queries * group;
      const kernels::SpanRange spans =
          kernels::find_visible_spans(run.first_position, run.num_queries, layer.window);
      for (int64_t r = 0; r < rows; ++r) {
        float* sum = partials_.data() + piece.partials + (spans.begin * rows + r) * partial_floats;
        for (int64_t span = spans.begin + 1; span < spans.end; ++span)
          kernels::merge_partial(sum + (span - spans.begin) * rows * partial_floats, sum, head_dim);
        float* out = attention_output_.row(run.first_row + r / group) + (piece.kv_head * group + r % group) * head_dim;
        kernels::finish_partial(sum, out, head_dim);
      }
    }
  });
}

}  // namespace sluice::llm
