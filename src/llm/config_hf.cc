// config.json of a Hugging Face folder to a Config. Both spellings of rotary settings are read:
// rope_theta beside rope_scaling, and the newer rope_parameters (one object, or one per kind of
// layer). Text models nested in a multimodal config ("text_config") are read from there.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "llm/config.h"
#include "llm/config_limits.h"

namespace sluice::llm {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

// One object of the file; every error names the file and the key.
class Fields {
 public:
  Fields(const std::string& path, const json::object& object) : path_(path), object_(&object) {}

  const std::string& path() const { return path_; }
  const json::value* find(const char* key) const { return json::find(*object_, key); }

  std::optional<Fields> find_object(const char* key) const {
    const json::value* v = find(key);
    if (v == nullptr) return std::nullopt;
    if (!v->is_object()) wrong(key, "an object", *v);
    return Fields(path_, v->get_object());
  }
  std::optional<int64_t> find_int(const char* key, int64_t low, int64_t high) const {
    return named([&] { return json::read_int(*object_, key, low, high); });
  }
  int64_t get_int(const char* key, int64_t low, int64_t high) const {
    std::optional<int64_t> value = find_int(key, low, high);
    if (!value)
      fail(Code::kInvalidArgument, "{}: '{}' is missing; download the model's config.json again",
           path_, key);
    return *value;
  }
  std::optional<double> find_double(const char* key, double low, double high) const {
    return named([&] { return json::read_double(*object_, key, low, high); });
  }
  std::optional<bool> find_bool(const char* key) const {
    return named([&] { return json::read_bool(*object_, key); });
  }
  std::string find_string(const char* key) const {
    return named([&] { return json::read_string(*object_, key); }).value_or("");
  }
  std::vector<double> find_doubles(const char* key) const {
    const json::value* v = find(key);
    std::vector<double> numbers;
    if (v == nullptr) return numbers;
    if (!v->is_array()) wrong(key, "a list of numbers", *v);
    for (const json::value& item : v->get_array()) {
      if (!item.is_number()) wrong(key, "a list of numbers", item);
      numbers.push_back(item.to_number<double>());
    }
    return numbers;
  }
  [[noreturn]] void wrong(const char* key, const char* wanted, const json::value& got) const {
    fail(Code::kInvalidArgument, "{}: '{}' must be {}, not {}", path_, key, wanted,
         json::describe(got));
  }

 private:
  template <typename Read>
  auto named(Read&& read) const -> decltype(read()) {
    try {
      return read();
    } catch (const Error& error) {
      throw Error(error.code(), path_ + ": " + error.message(), error.param());
    }
  }

  std::string path_;
  const json::object* object_;
};

Activation parse_activation(const Fields& f, const std::string& name) {
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast")
    return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGeluErf;
  fail(Code::kUnimplemented,
       "{}: activation '{}' is not supported; supported: silu, gelu, gelu_new, gelu_pytorch_tanh",
       f.path(), name.substr(0, 40));
}

void read_activation(const Fields& f, Config& c) {
  bool is_gemma = std::string_view(c.family.name).starts_with("gemma");
  std::string name = f.find_string("hidden_activation");
  // Gemma's first config said "gelu" and meant the tanh form; the reference code takes it that way.
  if (name.empty() && is_gemma) return;
  for (const char* key : {"hidden_act", "activation_function"}) {
    if (name.empty()) name = f.find_string(key);
  }
  if (!name.empty()) c.family.activation = parse_activation(f, name);
}

// Published as {"rope_type" or "type", "factor", ...}.
Rope read_rope(const Fields& f, const std::optional<Fields>& scaling_fields, int64_t dims,
               double base, Config& c) {
  RopeScaling scaling;
  if (scaling_fields) {
    const Fields& s = *scaling_fields;
    std::string kind = s.find_string("rope_type");
    if (kind.empty()) kind = s.find_string("type");
    std::optional<double> factor = s.find_double("factor", 1e-3, 1e6);
    double top_level_original = static_cast<double>(
        f.find_int("original_max_position_embeddings", 1, kMaxPositions).value_or(c.max_positions));
    scaling.original_positions =
        s.find_double("original_max_position_embeddings", 1, static_cast<double>(kMaxPositions))
            .value_or(top_level_original);
    double ratio = static_cast<double>(c.max_positions) / scaling.original_positions;
    scaling.factor = factor.value_or(1);
    if (std::optional<double> given = s.find_double("attention_factor", 1e-3, 1e3))
      scaling.magnitude = given;
    if (kind.empty() || kind == "default" || kind == "dynamic" || kind == "mrope") {
      // "dynamic" stretches only past the trained context, which is where sluice's limit lies.
      scaling = {};
    } else if (kind == "linear") {
      scaling.kind = RopeScalingKind::kLinear;
      scaling.magnitude.reset();
    } else if (kind == "llama3") {
      scaling.kind = RopeScalingKind::kLlama3;
      scaling.magnitude.reset();
      scaling.low_frequency_factor = s.find_double("low_freq_factor", 1e-6, 1e6).value_or(1);
      scaling.high_frequency_factor = s.find_double("high_freq_factor", 1e-6, 1e6).value_or(4);
      if (scaling.low_frequency_factor >= scaling.high_frequency_factor) {
        fail(Code::kInvalidArgument,
             "{}: rope 'low_freq_factor' {} must be below 'high_freq_factor' {}", f.path(),
             scaling.low_frequency_factor, scaling.high_frequency_factor);
      }
    } else if (kind == "yarn") {
      scaling.kind = RopeScalingKind::kYarn;
      if (!factor) scaling.factor = ratio;
      scaling.beta_fast = s.find_double("beta_fast", 1e-3, 1e6).value_or(32);
      scaling.beta_slow = s.find_double("beta_slow", 1e-3, 1e6).value_or(1);
      scaling.truncate = s.find_bool("truncate").value_or(true);
      double mscale = s.find_double("mscale", 0, 1e6).value_or(0),
             all = s.find_double("mscale_all_dim", 0, 1e6).value_or(0);
      if (!scaling.magnitude && mscale != 0 && all != 0 && scaling.factor > 1) {
        scaling.magnitude = (0.1 * mscale * std::log(scaling.factor) + 1) /
                            (0.1 * all * std::log(scaling.factor) + 1);
      }
      c.max_positions =
          std::max(c.max_positions,
                   static_cast<int64_t>(std::min(scaling.original_positions * scaling.factor,
                                                 static_cast<double>(kMaxPositions))));
    } else if (kind == "longrope" || kind == "su") {
      // One choice for the model's whole life, so that cached keys stay valid: the long factors if
      // its context is longer than the one it was first trained for.
      scaling.divisors = s.find_doubles(ratio > 1 ? "long_factor" : "short_factor");
      if (static_cast<int64_t>(scaling.divisors.size()) != dims / 2 ||
          !std::all_of(scaling.divisors.begin(), scaling.divisors.end(),
                       [](double d) { return d > 0; })) {
        fail(Code::kInvalidArgument, "{}: rope '{}' needs {} positive numbers, got {}", f.path(),
             ratio > 1 ? "long_factor" : "short_factor", dims / 2, scaling.divisors.size());
      }
      double stretch =
          f.find("original_max_position_embeddings") != nullptr ? ratio : factor.value_or(ratio);
      if (!scaling.magnitude) {
        scaling.magnitude =
            stretch > 1 && scaling.original_positions > 1
                ? std::sqrt(1 + std::log(stretch) / std::log(scaling.original_positions))
                : 1.0;
      }
      scaling.factor = 1;
    } else {
      fail(
          Code::kUnimplemented,
          "{}: rope type '{}' is not supported; supported: default, linear, llama3, yarn, longrope",
          f.path(), kind.substr(0, 40));
    }
  }
  return make_rope(c.family.hf_rope, dims, base, scaling);
}

void read_ropes(const Fields& f, Config& c) {
  if (c.family.hf_rope == RopeKind::kNone) {
    c.ropes.push_back({});
    return;
  }
  std::string_view name = c.family.name;
  std::optional<Fields> parameters = f.find_object("rope_parameters");
  std::optional<Fields> global =
      parameters ? parameters->find_object("full_attention") : std::nullopt;
  std::optional<Fields> local =
      parameters ? parameters->find_object("sliding_attention") : std::nullopt;
  if (!global) global = parameters;
  auto setting = [&](const std::optional<Fields>& own, const char* key, double low, double high) {
    std::optional<double> value = own ? own->find_double(key, low, high) : std::nullopt;
    return value ? value : f.find_double(key, low, high);
  };
  double share = setting(global, "partial_rotary_factor", 0, 1)
                     .value_or(name == "stablelm" ? 0.25
                               : name == "phi2"   ? 0.5
                                                  : 1);
  int64_t dims = static_cast<int64_t>(static_cast<double>(c.head_dim) * share);
  if (dims < 2 || dims % 2 != 0) {
    fail(Code::kInvalidArgument,
         "{}: {} rotary dimensions of heads of {}; expected an even number of at least 2", f.path(),
         dims, c.head_dim);
  }
  double base = setting(global, "rope_theta", 1e-3, 1e15).value_or(name == "gemma3" ? 1e6 : 10000);
  std::optional<Fields> scaling = global ? global : f.find_object("rope_scaling");
  c.ropes.push_back(read_rope(f, scaling, dims, base, c));
  if (name == "gemma3") {
    std::optional<double> local_base =
        local ? local->find_double("rope_theta", 1e-3, 1e15) : std::nullopt;
    if (!local_base) local_base = f.find_double("rope_local_base_freq", 1e-3, 1e15);
    c.ropes.push_back(read_rope(f, local, dims, local_base.value_or(10000), c));
  }
}

// layer_types says it outright; older configs leave it to the family: Gemma alternates with a
// period, Qwen slides from max_window_layers on if use_sliding_window, the others everywhere.
void read_windows(const Fields& f, Config& c) {
  std::string_view name = c.family.name;
  int64_t window = f.find_int("sliding_window", 0, kMaxPositions)
                       .value_or(name == "gemma2" || name == "gemma3" ? 4096 : 0);
  bool is_qwen = name.starts_with("qwen");
  if (is_qwen && !f.find_bool("use_sliding_window").value_or(false)) window = 0;
  if (name == "gpt2" || name == "phi2" || name == "stablelm" || name == "gemma" || name == "olmo2")
    window = 0;
  if (window == 0) return;
  const json::value* types = f.find("layer_types");
  if (types != nullptr &&
      (!types->is_array() || static_cast<int64_t>(types->get_array().size()) != c.num_layers())) {
    fail(Code::kInvalidArgument, "{}: 'layer_types' must list one type for each of {} layers",
         f.path(), c.num_layers());
  }
  int64_t period = f.find_int("sliding_window_pattern", 0, kMaxLayers)
                       .value_or(name == "gemma2"   ? 2
                                 : name == "gemma3" ? 6
                                                    : 0);
  int64_t first = is_qwen ? f.find_int("max_window_layers", 0, kMaxLayers).value_or(28) : 0;
  for (int64_t i = 0; i < c.num_layers(); ++i) {
    bool slides = i >= first && (period == 0 || (i + 1) % period != 0);
    if (types != nullptr) {
      const json::value& type = types->get_array()[static_cast<size_t>(i)];
      if (!type.is_string()) f.wrong("layer_types", "a list of strings", type);
      slides = type.get_string() == "sliding_attention";
      if (!slides && type.get_string() != "full_attention") {
        fail(Code::kUnimplemented,
             "{}: layer type '{}' is not supported; supported: full_attention, sliding_attention",
             f.path(), std::string_view(type.get_string()).substr(0, 40));
      }
    }
    if (!slides) continue;
    c.layers[static_cast<size_t>(i)].window = window;
    if (c.ropes.size() > 1) c.layers[static_cast<size_t>(i)].rope = 1;
  }
}

void read_experts(const Fields& f, Config& c) {
  bool is_mixtral = f.find("num_local_experts") != nullptr;
  c.num_experts =
      f.find_int(is_mixtral ? "num_local_experts" : "num_experts", 0, kMaxExperts).value_or(0);
  if (c.num_experts == 0) return;
  c.num_experts_used = f.get_int("num_experts_per_tok", 1, kMaxExperts);
  c.expert_ffn_width = f.find_int("moe_intermediate_size", 1, kMaxFfnWidth).value_or(c.ffn_width);
  c.normalise_expert_weights = f.find_bool("norm_topk_prob").value_or(is_mixtral);
  int64_t step = f.find_int("decoder_sparse_step", 1, kMaxLayers).value_or(1);
  std::vector<double> dense = f.find_doubles("mlp_only_layers");
  for (int64_t i = 0; i < c.num_layers(); ++i) {
    bool is_dense = std::find(dense.begin(), dense.end(), static_cast<double>(i)) != dense.end();
    c.layers[static_cast<size_t>(i)].has_experts = !is_dense && (i + 1) % step == 0;
  }
}

// What cannot be computed yet, said before anybody wonders about strange text.
void refuse_unsupported(const Fields& f) {
  if (std::optional<Fields> q = f.find_object("quantization_config")) {
    std::string method = q->find_string("quant_method");
    std::string format = q->find_string("format");
    bool plain_fp8 = (method == "fp8" && q->find("weight_block_size") == nullptr) ||
                     (method == "compressed-tensors" &&
                      (format == "float-quantized" || format == "naive-quantized"));
    if (!plain_fp8) {
      fail(Code::kUnimplemented,
           "{}: weights quantised with '{}'{} are not supported; use the unquantised model, FP8 "
           "with "
           "one scale a tensor or row, or a GGUF file",
           f.path(), method.empty() ? "unknown" : method.substr(0, 40),
           method == "fp8" ? " in blocks" : "");
    }
  }
  for (const char* key : {"use_qk_norm", "qk_layernorm"}) {
    if (f.find_bool(key).value_or(false)) {
      fail(Code::kUnimplemented, "{}: '{}' is not supported for this architecture", f.path(), key);
    }
  }
}

}  // namespace

Config read_hf_config(const std::string& path) {
  json::value root;
  try {
    root = json::parse(read_file(path, kMaxConfigBytes));
  } catch (const Error& error) {
    if (error.message().find(path) != std::string::npos) throw;
    throw Error(error.code(), path + ": " + error.message());
  }
  if (!root.is_object())
    fail(Code::kInvalidArgument, "{}: expected a JSON object, not {}", path, json::describe(root));
  Fields top(path, root.get_object());
  std::string type = top.find_string("model_type");
  if (type.empty())
    fail(Code::kInvalidArgument,
         "{}: 'model_type' is missing; download the model's config.json again", path);
  const Family* family = find_family(type);
  std::optional<Fields> nested = top.find_object("text_config");
  if (family == nullptr && nested) family = find_family(nested->find_string("model_type"));
  if (family == nullptr) fail_unsupported(path, type);
  refuse_unsupported(top);
  const Fields f = nested ? *nested : top;
  if (nested) refuse_unsupported(f);

  Config c;
  c.family = *family;
  c.source = path;
  std::string_view name = family->name;
  bool is_gpt2 = name == "gpt2", is_gemma3 = name == "gemma3", is_granite = name == "granite";
  // Multimodal configs leave out what equals the reference code's defaults; only Gemma 3 is
  // published that way.
  auto get_int = [&](const char* key, int64_t high, int64_t gemma3_default) {
    return is_gemma3 && gemma3_default > 0 ? f.find_int(key, 1, high).value_or(gemma3_default)
                                           : f.get_int(key, 1, high);
  };
  c.vocab_size = f.find_int("vocab_size", 1, kMaxVocab).value_or(0);
  c.width = get_int(is_gpt2 ? "n_embd" : "hidden_size", kMaxWidth, 2304);
  c.layers.resize(
      static_cast<size_t>(get_int(is_gpt2 ? "n_layer" : "num_hidden_layers", kMaxLayers, 26)));
  c.num_heads = get_int(is_gpt2 ? "n_head" : "num_attention_heads", kMaxHeads, 8);
  c.num_kv_heads =
      f.find_int("num_key_value_heads", 1, kMaxHeads).value_or(is_gemma3 ? 4 : c.num_heads);
  int64_t default_head_dim = name.starts_with("gemma")                      ? 256
                             : name.starts_with("qwen3") && name == "qwen3" ? 128
                                                                            : c.width / c.num_heads;
  c.head_dim = f.find_int("head_dim", 1, kMaxHeadDim).value_or(default_head_dim);
  if (c.head_dim < 1)
    fail(Code::kInvalidArgument, "{}: {} heads in a width of {}", path, c.num_heads, c.width);
  c.ffn_width = is_gpt2 ? f.find_int("n_inner", 1, kMaxFfnWidth).value_or(4 * c.width)
                        : get_int("intermediate_size", kMaxFfnWidth, 9216);
  c.max_positions = is_gpt2 ? f.find_int("n_positions", 1, kMaxPositions).value_or(1024)
                            : f.find_int("max_position_embeddings", 1, kMaxPositions)
                                  .value_or(is_gemma3 ? 131072 : 2048);
  c.norm_epsilon = 1e-5f;
  if (type == "llama" || type == "mistral" || name == "granite" || name == "qwen2" ||
      name.starts_with("qwen3") || name.starts_with("gemma"))
    c.norm_epsilon = 1e-6f;
  for (const char* key : {"rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"}) {
    if (auto epsilon = f.find_double(key, 0, 1)) c.norm_epsilon = static_cast<float>(*epsilon);
  }
  read_activation(f, c);
  c.tied_embeddings = f.find_bool("tie_word_embeddings");
  if (!c.tied_embeddings && nested) c.tied_embeddings = top.find_bool("tie_word_embeddings");

  if (auto bias = f.find_bool("attention_bias")) c.family.qkv_bias = c.family.output_bias = *bias;
  if (auto bias = f.find_bool("mlp_bias")) c.family.ffn_bias = *bias;
  if (auto bias = f.find_bool("use_bias"))
    c.family.qkv_bias = c.family.output_bias = c.family.ffn_bias = *bias;
  if (auto bias = f.find_bool("use_qkv_bias")) c.family.qkv_bias = *bias;
  if (auto parallel = f.find_bool("use_parallel_residual"); parallel && *parallel) {
    c.family.parallel_residual = c.family.shared_norm = true;
  }
  if (f.find_bool("scale_attn_by_inverse_layer_idx").value_or(false)) {
    fail(Code::kUnimplemented, "{}: 'scale_attn_by_inverse_layer_idx' is not supported", path);
  }

  if (family->scaled_embedding)
    c.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.width)));
  if (auto scale = f.find_double("embedding_multiplier", 1e-9, 1e9))
    c.embedding_scale = static_cast<float>(*scale);
  if (auto scale = f.find_double("residual_multiplier", 1e-9, 1e9))
    c.residual_scale = static_cast<float>(*scale);
  if (auto scale = f.find_double("logits_scaling", 1e-9, 1e9))
    c.logit_scale = static_cast<float>(1 / *scale);
  if (auto scale = f.find_double("logit_scale", 1e-9, 1e9))
    c.logit_scale = static_cast<float>(*scale);
  c.attention_softcap =
      static_cast<float>(f.find_double("attn_logit_softcapping", 0, 1e9).value_or(0));
  c.logit_softcap =
      static_cast<float>(f.find_double("final_logit_softcapping", 0, 1e9).value_or(0));
  double scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  if (auto scalar = f.find_double("query_pre_attn_scalar", 1e-6, 1e9))
    scale = 1 / std::sqrt(*scalar);
  if (is_granite) scale = f.find_double("attention_multiplier", 1e-9, 1e9).value_or(scale);
  for (LayerConfig& layer : c.layers) layer.attention_scale = static_cast<float>(scale);

  read_ropes(f, c);
  read_windows(f, c);
  read_experts(f, c);
  check_config(c);
  return c;
}

}  // namespace sluice::llm
