// The forward pass: one procedure for every family, reading what to do from Config. forward.cc is
// the whole of it in the order in which it happens, but for what goes through the pages
// (attention.cc) and the experts of a mixture (experts.cc).
//
// The engine thread owns a Transformer and is the only one to call forward(); the work of each
// stage is spread over the pool, with one barrier a stage. Buffers grow to the largest batch seen
// and stay. A token's numbers depend on its own sequence only: not on its neighbours in the batch,
// nor on how its prompt was cut into batches (but see Kernels::few_rows_matmul).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "llm/config.h"
#include "llm/model.h"
#include "llm/products.h"
#include "llm/weights.h"

namespace sluice::llm {

// For tests: called on the engine thread after a stage with what it computed, [num_rows,
// num_columns]. Stages are named "embedding", "layer 0 q", ..., "logits".
using StageObserver = std::function<void(const std::string& stage, const float* data,
                                         int64_t num_rows, int64_t num_columns)>;

// What the experts of a layer (none: an empty set) read their input in.
FormatSet expert_input_formats(const LayerWeights& layer, StepSize size);

class Transformer final : public Model {
 public:
  Transformer(Config config, Weights weights, ThreadPool& pool);

  int64_t vocab_size() const override { return config_.vocab_size; }
  int64_t max_positions() const override { return config_.max_positions; }
  KvLayout kv_layout(DType kv_type) const override;
  std::string description() const override;
  int64_t num_parameters() const override { return weights_.num_parameters; }
  int64_t weight_bytes() const override { return weights_.weight_bytes; }
  void forward(const Batch& batch, KvStore& kv, float* logits) override;

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  void set_stage_observer(StageObserver observer) { observer_ = std::move(observer); }

 private:
  // A token of the current batch.
  struct TokenPlace {
    int64_t position = 0;
    int32_t page = 0;
    int32_t row = 0;  // within the page
  };
  // Consecutive tokens of one sequence that attend to what is in its pages.
  struct QueryRun {
    const int32_t* pages = nullptr;
    int64_t first_row = 0;  // among the rows of the batch
    int64_t first_position = 0;
    int64_t num_queries = 0;
  };
  // Some queries of a run and one key/value head, and the spans that one worker attends to.
  struct AttentionPiece {
    QueryRun run;
    int64_t kv_head = 0;
    int64_t span_begin = 0, span_end = 0;  // without regard to windows
    int64_t partials = -1;  // where in partials_ those of span 0 would be; -1: all spans are in this piece
  };
  // One token's use of one expert.
  struct ExpertUse {
    int32_t token = 0;
    int32_t row = 0;  // among the rows sorted by expert
    float weight = 0;
  };
  struct Worker {
    std::vector<const void*> key_pages, value_pages;
    AlignedBuffer<float> scratch, partials;
    std::vector<std::pair<float, int32_t>> ranking;  // [num_experts] of one token
  };

  void prepare(const Batch& batch, const KvStore& kv);
  void embed(const Batch& batch);
  bool wants_fewer_rows(const Batch& batch) const;
  void keep_logit_rows(const Batch& batch);
  void rotate_and_store(int64_t layer, KvStore& kv, bool with_queries, bool with_keys);
  void plan_attention();
  void attend(int64_t layer, const KvStore& kv);
  void run_ffn(const LayerWeights& layer, Activations& input, float* output);
  void run_experts(const LayerWeights& layer, Activations& input, float* output);
  void choose_experts(int64_t num_tokens, int64_t num_experts);
  void activate(Activations& gate_and_result, const float* up, int64_t num_rows,
                int64_t num_columns);
  void compute_logits(const Batch& batch, float* logits);

  void normalise(const Norm& norm, const float* x, float* out, int64_t size) const;
  void add_branch(const Norm& post_norm, const float* branch, float* hidden, int worker);
  void observe(const char* stage, const float* data, int64_t num_rows, int64_t num_columns);

  const Config config_;
  const Weights weights_;
  const kernels::Kernels& kernels_;
  ThreadPool& pool_;
  StageObserver observer_;
  int64_t layer_ = -1;  // of the stages observed now

  int64_t num_tokens_ = 0;            // of the current batch: rows that are being computed
  bool has_logit_rows_only_ = false;  // row r is logit_tokens[r]
  std::vector<TokenPlace> places_;    // [num_tokens]
  std::vector<QueryRun> query_runs_;
  int64_t attention_work_ = 0;  // of one layer, in multiply-adds, at most
  std::vector<AttentionPiece> pieces_;
  std::vector<AttentionPiece> merges_;  // one for each group of pieces that share the spans
  AlignedBuffer<float> partials_;       // [spans, queries, group, attention_partial_floats] of each of these
  std::vector<Worker> workers_;               // [num_threads]
  AlignedBuffer<float> hidden_;               // [num_tokens, width]: the residual stream
  AlignedBuffer<float> branch_, ffn_branch_;  // [num_tokens, width]: what is added to it
  AlignedBuffer<float> scratch_rows_;         // [num_threads, width]
  Activations attention_input_, ffn_input_;   // [num_tokens, width]
  AlignedBuffer<float> q_, k_, v_;            // [num_tokens, query_width or kv_width]
  Activations attention_output_;              // [num_tokens, query_width]
  Activations ffn_hidden_;                    // [num_tokens or num_uses, ffn_width]
  AlignedBuffer<float> up_;                   // the same
  Activations logit_input_;                   // [num_logit_tokens, width]
  struct Rotation {
    AlignedBuffer<float> cosines, sines;  // [num_tokens, dims / 2]
  };
  std::vector<Rotation> rotations_;  // one for each of Config::ropes

  // Mixtures of experts.
  Activations expert_input_;            // [num_uses, width]: rows sorted by expert
  AlignedBuffer<float> router_logits_;  // [num_tokens, num_experts]
  AlignedBuffer<float> expert_output_;  // [num_uses, width]
  std::vector<int32_t> chosen_;         // [num_tokens, num_experts_used]
  std::vector<ExpertUse> uses_;         // [num_tokens, num_experts_used], best expert first
  std::vector<int64_t> expert_rows_;    // [num_experts + 1]: where each one's rows begin
  std::vector<Product> products_;
};

}  // namespace sluice::llm
