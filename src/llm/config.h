// The shape of a transformer, as data. A family (families.cc) says what all checkpoints of a brand
// share; a Config adds the numbers of one checkpoint, read from GGUF metadata (config_gguf.cc) or
// from config.json (config_hf.cc). After that nothing asks for the brand again: weights.cc and
// transformer.cc see these fields only, so a new family is a row in a table as long as it is made
// of parts that are here.
//
// Plain values, made once at load on the loading thread and never changed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/weight_file.h"
#include "llm/rope.h"

namespace sluice::llm {

enum class NormKind : uint8_t { kRms, kLayer };
enum class QkNorm : uint8_t { kNone, kPerHead, kFullWidth };
enum class Activation : uint8_t { kSilu, kGeluTanh, kGeluErf };
enum class HfNaming : uint8_t { kLlama, kGpt2, kStarcoder2, kPhi };

// What the checkpoints of one family have in common.
struct Family {
  const char* name;                   // GGUF's general.architecture
  std::vector<const char*> hf_types;  // config.json's model_type
  NormKind norm = NormKind::kRms;
  bool norm_bias = false;         // a missing one is an error
  bool pre_norms = true;          // a norm before attention and before the FFN
  bool post_norms = false;        // a norm on what each of them adds
  bool hf_norm_plus_one = false;  // Hugging Face stores w - 1 (GGUF has it added back)
  QkNorm qk_norm = QkNorm::kNone;
  RopeKind gguf_rope = RopeKind::kNeox;  // GGUF's llama rows are permuted for interleaved pairs
  RopeKind hf_rope = RopeKind::kNeox;
  bool learned_positions = false;
  bool gated = true;  // down(act(gate) * up), else down(act(up))
  Activation activation = Activation::kSilu;
  bool qkv_bias = false, output_bias = false,
       ffn_bias = false;           // a missing one is an error; a present one is always used
  bool parallel_residual = false;  // attention and FFN both read the layer's input
  bool shared_norm = false;        // ... through one norm
  bool scaled_embedding = false;   // times sqrt(width)
  HfNaming hf_naming = HfNaming::kLlama;
};

const std::vector<Family>& families();
const Family* find_family(std::string_view name_or_hf_type);

struct LayerConfig {
  int64_t window = 0;  // positions a query sees, itself included; 0: all
  int rope = 0;        // index into Config::ropes
  bool has_experts = false;
  float attention_scale = 0;  // multiplies q.k
};

struct Config {
  Family family;
  std::string source;      // the file it was read from, for errors
  int64_t vocab_size = 0;  // 0: as many as the embedding has rows
  int64_t width = 0;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t ffn_width = 0;
  int64_t num_experts = 0, num_experts_used = 0, expert_ffn_width = 0;
  bool normalise_expert_weights = true;  // the chosen experts' probabilities are scaled to sum to 1
  int64_t max_positions = 0;
  float norm_epsilon = 1e-5f;
  float attention_softcap = 0, logit_softcap = 0;  // 0: none
  float embedding_scale = 1, residual_scale = 1, logit_scale = 1;
  std::optional<bool> tied_embeddings;  // nullopt: tied if the file has no output matrix
  std::vector<Rope> ropes;              // kNone for families with learned positions
  std::vector<LayerConfig> layers;

  int64_t num_layers() const { return static_cast<int64_t>(layers.size()); }
  int64_t query_width() const { return num_heads * head_dim; }
  int64_t kv_width() const { return num_kv_heads * head_dim; }
};

// Both throw Error naming file and key. read_hf_config reads the file `path` (config.json).
Config read_gguf_config(const formats::WeightFile& weights);
Config read_hf_config(const std::string& path);

// Checks what both readers must agree on (heads divide, rotary dimensions fit, ...); throws Error
// naming config.source.
void check_config(const Config& config);
// "A, B, C" of every name that find_family knows.
std::string list_supported_architectures();
[[noreturn]] void fail_unsupported(const std::string& source, std::string_view architecture);

}  // namespace sluice::llm
