// The table of families. Facts are those of the checkpoints' own reference code; how GGUF stores
// them (permuted rows, folded norms) is ggml's conversion convention. Rows may run to 120 columns.
#include <algorithm>

#include "base/error.h"
#include "llm/config.h"

namespace sluice::llm {

const std::vector<Family>& families() {
  static const std::vector<Family> kFamilies = {
      {.name = "llama", .hf_types = {"llama", "mistral", "mixtral"}, .gguf_rope = RopeKind::kInterleaved},
      {.name = "qwen2", .hf_types = {"qwen2"}, .qkv_bias = true},
      {.name = "qwen3", .hf_types = {"qwen3"}, .qk_norm = QkNorm::kPerHead},
      {.name = "qwen3moe", .hf_types = {"qwen3_moe"}, .qk_norm = QkNorm::kPerHead},
      {.name = "gemma", .hf_types = {"gemma"}, .hf_norm_plus_one = true, .activation = Activation::kGeluTanh,
       .scaled_embedding = true},
      {.name = "gemma2", .hf_types = {"gemma2"}, .post_norms = true, .hf_norm_plus_one = true,
       .activation = Activation::kGeluTanh, .scaled_embedding = true},
      {.name = "gemma3", .hf_types = {"gemma3", "gemma3_text"}, .post_norms = true, .hf_norm_plus_one = true,
       .qk_norm = QkNorm::kPerHead, .activation = Activation::kGeluTanh, .scaled_embedding = true},
      {.name = "phi2", .hf_types = {"phi"}, .norm = NormKind::kLayer, .norm_bias = true, .gated = false,
       .activation = Activation::kGeluTanh, .qkv_bias = true, .output_bias = true, .ffn_bias = true,
       .parallel_residual = true, .shared_norm = true, .hf_naming = HfNaming::kPhi},
      {.name = "phi3", .hf_types = {"phi3"}},
      {.name = "gpt2", .hf_types = {"gpt2"}, .norm = NormKind::kLayer, .norm_bias = true,
       .gguf_rope = RopeKind::kNone, .hf_rope = RopeKind::kNone, .learned_positions = true, .gated = false,
       .activation = Activation::kGeluTanh, .qkv_bias = true, .output_bias = true, .ffn_bias = true,
       .hf_naming = HfNaming::kGpt2},
      {.name = "starcoder2", .hf_types = {"starcoder2"}, .norm = NormKind::kLayer, .norm_bias = true, .gated = false,
       .activation = Activation::kGeluTanh, .qkv_bias = true, .output_bias = true, .ffn_bias = true,
       .hf_naming = HfNaming::kStarcoder2},
      {.name = "stablelm", .hf_types = {"stablelm"}, .norm = NormKind::kLayer, .norm_bias = true},
      {.name = "olmo2", .hf_types = {"olmo2"}, .pre_norms = false, .post_norms = true, .qk_norm = QkNorm::kFullWidth},
      {.name = "granite", .hf_types = {"granite"}, .gguf_rope = RopeKind::kInterleaved},
      {.name = "command-r", .hf_types = {"cohere"}, .norm = NormKind::kLayer, .gguf_rope = RopeKind::kInterleaved,
       .hf_rope = RopeKind::kInterleaved, .parallel_residual = true, .shared_norm = true},
  };
  return kFamilies;
}

const Family* find_family(std::string_view name) {
  for (const Family& family : families()) {
    if (name == family.name) return &family;
    for (const char* type : family.hf_types) {
      if (name == type) return &family;
    }
  }
  return nullptr;
}

std::string list_supported_architectures() {
  std::vector<std::string> names;
  for (const Family& family : families()) {
    names.emplace_back(family.name);
    for (const char* type : family.hf_types) names.emplace_back(type);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void fail_unsupported(const std::string& source, std::string_view architecture) {
  fail(Code::kUnimplemented, "{}: architecture '{}' is not supported; use a model of one of: {}", source,
       architecture.substr(0, 100), list_supported_architectures());
}

void check_config(const Config& c) {
  if (c.num_heads % c.num_kv_heads != 0) {
    fail(Code::kInvalidArgument, "{}: {} attention heads cannot share {} key/value heads evenly; the file is damaged",
         c.source, c.num_heads, c.num_kv_heads);
  }
  bool has_dense =
      std::any_of(c.layers.begin(), c.layers.end(), [](const LayerConfig& l) { return !l.has_experts; });
  if (has_dense && c.ffn_width < 1) {
    fail(Code::kInvalidArgument, "{}: the width of the feed-forward network is {}; the file is damaged", c.source,
         c.ffn_width);
  }
  for (const Rope& rope : c.ropes) {
    if (rope.kind != RopeKind::kNone && rope.dims > c.head_dim) {
      fail(Code::kInvalidArgument, "{}: {} rotary dimensions do not fit in heads of {}; the file is damaged", c.source,
           rope.dims, c.head_dim);
    }
  }
  if (c.num_experts > 0 && (c.num_experts_used < 1 || c.num_experts_used > c.num_experts)) {
    fail(Code::kInvalidArgument, "{}: {} of {} experts used a token is not possible; the file is damaged", c.source,
         c.num_experts_used, c.num_experts);
  }
}

}  // namespace sluice::llm
