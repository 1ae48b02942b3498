// Every tensor of one model, found, checked against the Config, and in the form that the forward
// pass reads.
//
// Matrices are views into the mapped file wherever the file has them row by row as [outputs,
// inputs]; a fused one is just several views of its rows. What the file has otherwise (GPT-2's
// transposed matrices) is converted once, here, into memory that Weights owns. Norms and biases are
// small and always f32. Immutable after load_weights() and pack_weights(); any thread may read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "formats/weight_file.h"
#include "llm/config.h"

namespace sluice::llm {

struct Linear {
  TensorView weight;             // [num_outputs, num_inputs]
  bool is_packed = false;        // weight.data are strips (kernels/pack.h), not rows
  const float* scale = nullptr;  // [num_outputs] or null: multiplies the product (FP8 checkpoints)
  const float* bias = nullptr;   // [num_outputs] or null: added last

  explicit operator bool() const { return weight.data != nullptr; }
  int64_t num_outputs() const { return weight.shape[0]; }
  int64_t num_inputs() const { return weight.shape[1]; }
};

struct Norm {
  const float* weight = nullptr;  // [size], null: there is no such norm
  const float* bias = nullptr;    // [size] or null

  explicit operator bool() const { return weight != nullptr; }
};

struct ExpertWeights {
  Linear gate, up;  // [expert_ffn_width, width]
  Linear down;      // [width, expert_ffn_width]
};

struct LayerWeights {
  Norm attention_norm, attention_post_norm, ffn_norm, ffn_post_norm;  // [width]
  Norm q_norm, k_norm;                 // [head_dim], or [query_width] and [kv_width] if full width
  Linear q;                            // [query_width, width]
  Linear k, v;                         // [kv_width, width]
  Linear output;                       // [width, query_width]
  Linear gate;                         // [ffn_width, width], none for a plain FFN
  Linear up;                           // [ffn_width, width]
  Linear down;                         // [width, ffn_width]
  Linear router;                       // [num_experts, width], none for a dense layer
  std::vector<ExpertWeights> experts;  // [num_experts]
};

struct Weights {
  Linear embedding;      // [vocab_size, width]
  TensorView positions;  // [max_positions, width] for learned positions
  Norm final_norm;       // [width]
  Linear head;           // [vocab_size, width]; the embedding's bytes if tied
  std::vector<LayerWeights> layers;

  int64_t num_parameters = 0;  // tied ones once
  int64_t weight_bytes = 0;
  DType main_type = DType::kF32;            // of most parameters
  std::vector<std::string> unused_tensors;  // in the file, read by nobody

  std::shared_ptr<const formats::WeightFile> file;  // what the views point into
  std::vector<std::unique_ptr<uint8_t[]>> owned;    // converted vectors
  std::vector<std::unique_ptr<uint8_t[]>> owned_matrices;  // transposed matrices, until they are packed
  std::shared_ptr<uint8_t> packed;                  // what packed matrices point into (pack_weights.h)
};

// Fills in config.vocab_size if the config left it open. Throws Error naming file, tensor, shapes
// and what to do.
Weights load_weights(std::shared_ptr<const formats::WeightFile> file, Config& config);

}  // namespace sluice::llm
