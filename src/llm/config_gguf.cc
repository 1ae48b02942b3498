// GGUF metadata (general.architecture and its ARCH.* keys) to a Config. Keys and defaults are the
// ones that ggml's converters and loaders agree on.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "llm/config.h"
#include "llm/config_limits.h"

namespace sluice::llm {
namespace {

// Reads "ARCH.key" and says so when it is wrong.
class Keys {
 public:
  Keys(const formats::WeightFile& file, std::string architecture)
      : file_(file), architecture_(std::move(architecture)) {}

  std::string full(const char* key) const { return architecture_ + "." + key; }
  bool has(const char* key) const { return file_.metadata().has(full(key)); }

  std::optional<int64_t> find_int(const char* key, int64_t low, int64_t high) const {
    std::optional<int64_t> value;
    const std::string name = full(key);
    auto held = file_.metadata().values.find(name);
    if (held != file_.metadata().values.end() &&
        std::holds_alternative<std::vector<int64_t>>(held->second)) {
      // One number a layer: fine while they all say the same.
      const auto& list = std::get<std::vector<int64_t>>(held->second);
      if (list.empty() ||
          std::count(list.begin(), list.end(), list[0]) != static_cast<int64_t>(list.size())) {
        fail(Code::kUnimplemented, "{}: '{}' differs from layer to layer, which is not supported",
             file_.path(), name);
      }
      value = list[0];
    } else {
      value = file_.metadata().find_int(name);
    }
    if (value && (*value < low || *value > high)) {
      fail(Code::kInvalidArgument, "{}: '{}' is {}, outside [{}, {}]; the file is damaged",
           file_.path(), name, *value, low, high);
    }
    return value;
  }

  int64_t get_int(const char* key, int64_t low, int64_t high) const {
    std::optional<int64_t> value = find_int(key, low, high);
    if (!value)
      fail(Code::kInvalidArgument, "{}: key '{}' is missing; convert the model again", file_.path(),
           full(key));
    return *value;
  }

  std::optional<double> find_float(const char* key, double low, double high) const {
    const std::string name = full(key);
    std::optional<double> value = file_.metadata().find_float(name);
    if (value && !(*value >= low && *value <= high)) {
      fail(Code::kInvalidArgument, "{}: '{}' is {}, outside [{}, {}]; the file is damaged",
           file_.path(), name, *value, low, high);
    }
    return value;
  }

  std::string find_string(const char* key) const {
    const std::string* value = file_.metadata().find_string(full(key));
    return value == nullptr ? "" : *value;
  }

 private:
  const formats::WeightFile& file_;
  const std::string architecture_;
};

// rope_freqs and LongRoPE's factors: one divisor a pair.
std::vector<double> read_divisors(const formats::WeightFile& file, const char* name, int64_t dims) {
  const TensorView* view = file.find(name);
  if (view == nullptr) return {};
  if (view->type != DType::kF32 || view->shape != Shape{dims / 2}) {
    fail(Code::kInvalidArgument,
         "{}: tensor '{}' is {} {}, expected f32 [{}]; convert the model again", file.path(), name,
         sluice::name(view->type), to_string(view->shape), dims / 2);
  }
  std::vector<double> divisors;
  for (int64_t i = 0; i < dims / 2; ++i) {
    float value;
    std::memcpy(&value, view->data + i * 4, 4);
    if (!(value > 0) || !std::isfinite(value)) {
      fail(Code::kInvalidArgument,
           "{}: tensor '{}' holds {}, expected positive numbers; the file is damaged", file.path(),
           name, value);
    }
    divisors.push_back(value);
  }
  return divisors;
}

void read_ropes(const formats::WeightFile& file, const Keys& keys, Config& c) {
  const Family& family = c.family;
  if (family.gguf_rope == RopeKind::kNone) {
    c.ropes.push_back({});
    return;
  }
  int64_t dims = keys.find_int("rope.dimension_count", 2, kMaxHeadDim).value_or(c.head_dim);
  if (dims % 2 != 0 || dims > c.head_dim) {
    fail(Code::kInvalidArgument, "{}: '{}' is {}, expected an even number up to the head size {}",
         file.path(), keys.full("rope.dimension_count"), dims, c.head_dim);
  }
  double base = keys.find_float("rope.freq_base", 1e-3, 1e15).value_or(10000);
  RopeScaling scaling;
  const std::string kind = keys.find_string("rope.scaling.type");
  scaling.factor = keys.find_float("rope.scaling.factor", 0, 1e6)
                       .value_or(keys.find_float("rope.scale_linear", 0, 1e6).value_or(1));
  if (scaling.factor == 0) scaling.factor = 1;
  scaling.original_positions =
      static_cast<double>(keys.find_int("rope.scaling.original_context_length", 1, kMaxPositions)
                              .value_or(c.max_positions));
  std::optional<double> attention_factor = keys.find_float("rope.scaling.attn_factor", 1e-3, 1e3);
  if (kind.empty() || kind == "linear") {
    scaling.kind = scaling.factor == 1 ? RopeScalingKind::kNone : RopeScalingKind::kLinear;
    scaling.magnitude = attention_factor;
  } else if (kind == "yarn") {
    scaling.kind = RopeScalingKind::kYarn;
    scaling.beta_fast = keys.find_float("rope.scaling.yarn_beta_fast", 1e-3, 1e6).value_or(32);
    scaling.beta_slow = keys.find_float("rope.scaling.yarn_beta_slow", 1e-3, 1e6).value_or(1);
    // The multiplier is Hugging Face's mscale_all_dim, with mscale 1.
    double stretch = scaling.factor > 1 ? 0.1 * std::log(scaling.factor) : 0;
    double all_dims = keys.find_float("rope.scaling.yarn_log_multiplier", 0, 1e6).value_or(0);
    scaling.magnitude = attention_factor.value_or(1) * (1 + stretch) / (1 + all_dims * stretch);
  } else if (kind == "longrope") {
    scaling.magnitude = attention_factor;
  } else if (kind != "none") {
    fail(Code::kUnimplemented, "{}: '{}' is '{}'; supported: none, linear, yarn, longrope",
         file.path(), keys.full("rope.scaling.type"), kind.substr(0, 40));
  }
  // One choice for the whole life of a model, so that cached keys stay valid whatever a sequence's
  // length: the long factors if the checkpoint's context is longer than what it was first trained
  // for.
  bool is_long = static_cast<double>(c.max_positions) > scaling.original_positions;
  scaling.divisors =
      read_divisors(file, is_long ? "rope_factors_long.weight" : "rope_factors_short.weight", dims);
  if (scaling.divisors.empty()) scaling.divisors = read_divisors(file, "rope_freqs.weight", dims);
  c.ropes.push_back(make_rope(family.gguf_rope, dims, base, scaling));
  // Sliding layers of Gemma 3 and OLMo 3 keep the plain rotation of the short context.
  bool is_gemma3 = c.family.name == std::string_view("gemma3");
  if (is_gemma3 || c.family.name == std::string_view("olmo2")) {
    double local_base =
        keys.find_float("rope.freq_base_swa", 1e-3, 1e15).value_or(is_gemma3 ? 10000 : base);
    c.ropes.push_back(make_rope(family.gguf_rope, dims, local_base, {}));
  }
}

// Which layers slide. ARCH.attention.sliding_window_pattern is a period (every n-th layer sees
// everything) or one boolean a layer; without it the families have their known periods. For the
// families not named here (phi3, starcoder2, llama, qwen2, ...) files may carry a window as well,
// but GGUF's own runtime attends to everything there, and so do its users' expectations.
void read_windows(const formats::WeightFile& file, const Keys& keys, Config& c) {
  std::string_view name = c.family.name;
  int64_t window = keys.find_int("attention.sliding_window", 0, kMaxPositions)
                       .value_or(name == "gemma2" ? 4096 : 0);
  int64_t period = name == "gemma2" ? 2 : name == "gemma3" ? 6 : name == "olmo2" ? 4 : 0;
  if (window == 0 || period == 0) return;
  const std::string key = keys.full("attention.sliding_window_pattern");
  auto held = file.metadata().values.find(key);
  const std::vector<bool>* pattern = nullptr;
  if (held != file.metadata().values.end()) {
    pattern = std::get_if<std::vector<bool>>(&held->second);
    if (pattern == nullptr)
      period = keys.get_int("attention.sliding_window_pattern", 0, kMaxLayers);
    if (pattern != nullptr && static_cast<int64_t>(pattern->size()) != c.num_layers()) {
      fail(Code::kInvalidArgument, "{}: '{}' has {} entries for {} layers; the file is damaged",
           file.path(), key, pattern->size(), c.num_layers());
    }
  }
  for (int64_t i = 0; i < c.num_layers(); ++i) {
    bool slides = pattern != nullptr ? (*pattern)[static_cast<size_t>(i)]
                                     : period == 0 || (i + 1) % period != 0;
    if (!slides) continue;
    c.layers[static_cast<size_t>(i)].window = window;
    if (c.ropes.size() > 1) c.layers[static_cast<size_t>(i)].rope = 1;
  }
}

double get_attention_scale(const Keys& keys, const Config& c) {
  if (auto scale = keys.find_float("attention.scale", 0, 1e6); scale && *scale != 0) return *scale;
  std::string_view name = c.family.name;
  // The 27B members of Gemma scale by width / heads, which their head size does not equal; GGUF has
  // no key for it.
  bool by_width =
      (name == "gemma2" && c.num_layers() == 46) || (name == "gemma3" && c.num_layers() == 62);
  return 1 / std::sqrt(static_cast<double>(by_width ? c.width / c.num_heads : c.head_dim));
}

}  // namespace

Config read_gguf_config(const formats::WeightFile& file) {
  const std::string* architecture = file.metadata().find_string("general.architecture");
  if (architecture == nullptr) {
    fail(Code::kInvalidArgument,
         "{}: key 'general.architecture' is missing; convert the model again", file.path());
  }
  const Family* family = nullptr;
  for (const Family& candidate : families()) {
    if (*architecture == candidate.name) family = &candidate;
  }
  if (family == nullptr) fail_unsupported(file.path(), *architecture);
  Keys keys(file, *architecture);
  Config c;
  c.family = *family;
  c.source = file.path();
  c.vocab_size =
      0;  // the embedding knows; ARCH.vocab_size is optional and sometimes padded differently
  c.width = keys.get_int("embedding_length", 1, kMaxWidth);
  c.num_heads = keys.get_int("attention.head_count", 1, kMaxHeads);
  c.num_kv_heads = keys.find_int("attention.head_count_kv", 1, kMaxHeads).value_or(c.num_heads);
  c.head_dim =
      keys.find_int("attention.key_length", 1, kMaxHeadDim).value_or(c.width / c.num_heads);
  if (c.head_dim < 1)
    fail(Code::kInvalidArgument, "{}: {} heads in a width of {}", file.path(), c.num_heads,
         c.width);
  if (int64_t value_dim =
          keys.find_int("attention.value_length", 1, kMaxHeadDim).value_or(c.head_dim);
      value_dim != c.head_dim) {
    fail(Code::kUnimplemented, "{}: values of {} per head beside keys of {} are not supported",
         file.path(), value_dim, c.head_dim);
  }
  c.max_positions = keys.find_int("context_length", 1, kMaxPositions).value_or(2048);
  c.ffn_width = keys.find_int("feed_forward_length", 0, kMaxFfnWidth).value_or(4 * c.width);
  const char* epsilon_key = family->norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon"
                                                           : "attention.layer_norm_epsilon";
  c.norm_epsilon = static_cast<float>(keys.find_float(epsilon_key, 0, 1).value_or(1e-5));
  c.num_experts = keys.find_int("expert_count", 0, kMaxExperts).value_or(0);
  if (c.num_experts > 0) {
    c.num_experts_used = keys.get_int("expert_used_count", 1, kMaxExperts);
    c.expert_ffn_width =
        keys.find_int("expert_feed_forward_length", 1, kMaxFfnWidth).value_or(c.ffn_width);
  }
  if (family->scaled_embedding)
    c.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.width)));
  if (auto scale = keys.find_float("embedding_scale", 0, 1e9); scale && *scale != 0)
    c.embedding_scale = static_cast<float>(*scale);
  if (auto scale = keys.find_float("residual_scale", 0, 1e9); scale && *scale != 0)
    c.residual_scale = static_cast<float>(*scale);
  if (auto scale = keys.find_float("logit_scale", 0, 1e9); scale && *scale != 0) {
    // Granite's number divides, Cohere's multiplies.
    c.logit_scale =
        static_cast<float>(family->name == std::string_view("granite") ? 1 / *scale : *scale);
  }
  bool is_gemma2 = family->name == std::string_view("gemma2");
  c.attention_softcap = static_cast<float>(
      keys.find_float("attn_logit_softcapping", 0, 1e9).value_or(is_gemma2 ? 50 : 0));
  c.logit_softcap = static_cast<float>(
      keys.find_float("final_logit_softcapping", 0, 1e9).value_or(is_gemma2 ? 30 : 0));
  if (auto parallel = file.metadata().find_bool(keys.full("use_parallel_residual"))) {
    c.family.parallel_residual = *parallel;
  }
  if (family->name == std::string_view("stablelm")) {
    // Members with both branches on the layer's input have no second norm; that is how they show.
    bool is_parallel = file.find("blk.0.ffn_norm.weight") == nullptr;
    c.family.parallel_residual = c.family.shared_norm = is_parallel;
  }

  c.layers.resize(static_cast<size_t>(keys.get_int("block_count", 1, kMaxLayers)));
  read_ropes(file, keys, c);
  read_windows(file, keys, c);
  int64_t num_dense = keys.find_int("leading_dense_block_count", 0, kMaxLayers).value_or(0);
  float scale = static_cast<float>(get_attention_scale(keys, c));
  for (int64_t i = 0; i < c.num_layers(); ++i) {
    c.layers[static_cast<size_t>(i)].attention_scale = scale;
    c.layers[static_cast<size_t>(i)].has_experts = c.num_experts > 0 && i >= num_dense;
  }
  check_config(c);
  return c;
}

}  // namespace sluice::llm
