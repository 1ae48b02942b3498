#include "llm/tensor_names.h"

#include <string_view>

namespace sluice::llm {
namespace {

TensorNames gguf_names() {
  return {.prefix = "", .layer_prefix = "blk.",
          .embedding = "token_embd", .positions = "position_embd", .final_norm = "output_norm", .head = "output",
          .attention_norm = "attn_norm", .attention_post_norm = "post_attention_norm", .ffn_norm = "ffn_norm",
          .ffn_post_norm = "post_ffw_norm", .q_norm = "attn_q_norm", .k_norm = "attn_k_norm",
          .q = "attn_q", .k = "attn_k", .v = "attn_v", .qkv = "attn_qkv", .output = "attn_output",
          .gate = "ffn_gate", .up = "ffn_up", .gate_up = "ffn_up", .down = "ffn_down", .router = "ffn_gate_inp",
          .expert_gate = "ffn_gate.#", .expert_up = "ffn_up.#", .expert_down = "ffn_down.#",
          .expert_gate_all = "ffn_gate_exps", .expert_up_all = "ffn_up_exps", .expert_down_all = "ffn_down_exps"};
}

TensorNames llama_names() {
  return {.prefix = "model.", .layer_prefix = "layers.",
          .embedding = "embed_tokens", .positions = "", .final_norm = "norm", .head = "lm_head",
          .attention_norm = "input_layernorm", .attention_post_norm = "", .ffn_norm = "post_attention_layernorm",
          .ffn_post_norm = "", .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm",
          .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj", .qkv = "self_attn.qkv_proj",
          .output = "self_attn.o_proj",
          .gate = "mlp.gate_proj", .up = "mlp.up_proj", .gate_up = "mlp.gate_up_proj", .down = "mlp.down_proj",
          .router = "mlp.gate",
          .expert_gate = "mlp.experts.#.gate_proj", .expert_up = "mlp.experts.#.up_proj",
          .expert_down = "mlp.experts.#.down_proj", .expert_gate_all = "", .expert_up_all = "", .expert_down_all = ""};
}

TensorNames hf_names(const Config& config) {
  TensorNames names = llama_names();
  if (config.family.post_norms) {
    names.attention_post_norm = "post_attention_layernorm";
    names.ffn_norm = "pre_feedforward_layernorm";
    names.ffn_post_norm = "post_feedforward_layernorm";
  }
  switch (config.family.hf_naming) {
    case HfNaming::kLlama: break;
    case HfNaming::kStarcoder2:
      names.up = "mlp.c_fc";
      names.down = "mlp.c_proj";
      break;
    case HfNaming::kPhi:
      names.final_norm = "final_layernorm";
      names.output = "self_attn.dense";
      names.up = "mlp.fc1";
      names.down = "mlp.fc2";
      break;
    case HfNaming::kGpt2:
      names.prefix = "transformer.";
      names.layer_prefix = "h.";
      names.embedding = "wte";
      names.positions = "wpe";
      names.final_norm = "ln_f";
      names.attention_norm = "ln_1";
      names.ffn_norm = "ln_2";
      names.qkv = "attn.c_attn";
      names.output = "attn.c_proj";
      names.up = "mlp.c_fc";
      names.down = "mlp.c_proj";
      names.transposed = true;
      break;
  }
  return names;
}

}  // namespace

TensorNames find_tensor_names(const formats::WeightFile& file, const Config& config) {
  if (file.format() == std::string_view("gguf")) {
    TensorNames names = gguf_names();
    if (!file.find("position_embd.weight") && file.find("pos_embd.weight")) names.positions = "pos_embd";
    return names;
  }
  TensorNames names = hf_names(config);
  // A text model may have been saved without its head's prefix, or inside a multimodal one.
  for (const char* candidate :
       {"", "language_model.model.", "model.language_model.", "model.text_model.", "language_model."}) {
    if (file.find(names.prefix + names.final_norm + ".weight") != nullptr) break;
    if (file.find(candidate + names.final_norm + ".weight") != nullptr) names.prefix = candidate;
  }
  if (file.find("language_model.lm_head.weight") != nullptr) names.head = "language_model.lm_head";
  names.layer_prefix = names.prefix + names.layer_prefix;
  names.embedding = names.prefix + names.embedding;
  if (!names.positions.empty()) names.positions = names.prefix + names.positions;
  names.final_norm = names.prefix + names.final_norm;
  // Of two names of the same bytes safetensors keeps one, and that may be the head's.
  if (config.tied_embeddings.value_or(false) && file.find(names.embedding + ".weight") == nullptr &&
      file.find(names.head + ".weight") != nullptr) {
    names.embedding = names.head;
  }

  // Mixtral names its experts in its own way.
  std::string first_layer = names.layer_prefix + "0.";
  if (file.find(first_layer + "block_sparse_moe.gate.weight") != nullptr) {
    names.router = "block_sparse_moe.gate";
    names.expert_gate = "block_sparse_moe.experts.#.w1";
    names.expert_down = "block_sparse_moe.experts.#.w2";
    names.expert_up = "block_sparse_moe.experts.#.w3";
  }
  return names;
}

}  // namespace sluice::llm
