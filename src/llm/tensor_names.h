// What each kind of checkpoint calls its tensors. Data only; weights.cc reads it. Names are without
// their ".weight" or
// ".bias"; those of a layer stand behind its prefix, "model.layers.12."; '#' stands for an expert's
// number.
#pragma once

#include <string>

#include "formats/weight_file.h"
#include "llm/config.h"

namespace sluice::llm {

struct TensorNames {
  std::string prefix;        // of everything but the head: "model."
  std::string layer_prefix;  // "model.layers."
  std::string embedding, positions, final_norm, head;

  std::string attention_norm, attention_post_norm, ffn_norm, ffn_post_norm, q_norm, k_norm;
  std::string q, k, v, qkv, output;
  std::string gate, up, gate_up, down;  // gate_up: gate's rows, then up's
  std::string router;
  std::string expert_gate, expert_up, expert_down;              // one tensor an expert
  std::string expert_gate_all, expert_up_all, expert_down_all;  // [num_experts, ...] in one tensor
  bool transposed = false;                                      // matrices are [inputs, outputs]
};

// The names of this file: GGUF's, or those of the family's Hugging Face layout with the prefix the
// file uses.
TensorNames find_tensor_names(const formats::WeightFile& file, const Config& config);

}  // namespace sluice::llm
