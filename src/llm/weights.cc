#include "llm/weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "kernels/kernels.h"
#include "llm/tensor_names.h"

namespace sluice::llm {
namespace {

// Left in files by training code or by other programs; nothing of the model is lost by not reading
// them.
bool is_known_extra(std::string_view name) {
  for (const char* part :
       {"rotary_emb", "rope_freqs", "rope_factors", "masked_bias", "input_scale", "k_scale",
        "v_scale", "vision_tower", "multi_modal_projector", "vision_model", "mm_projector"}) {
    if (name.find(part) != std::string_view::npos) return true;
  }
  return name.ends_with(".attn.bias");  // GPT-2's causal mask, saved as if it were a weight
}

class Loader {
 public:
  Loader(std::shared_ptr<const formats::WeightFile> file, Config& config)
      : file_(*file),
        config_(config),
        names_(find_tensor_names(*file, config)),
        is_gguf_(file->format() == std::string_view("gguf")) {
    weights_.file = std::move(file);
  }

  Weights load() {
    load_embedding();
    const int64_t width = config_.width;
    if (config_.family.learned_positions) {
      const TensorView& view = get(names_.positions + ".weight");
      require_shape(names_.positions + ".weight", view, {config_.max_positions, width});
      require_float(names_.positions + ".weight", view);
      weights_.positions = view;
      count(view);
    }
    for (int64_t i = 0; i < config_.num_layers(); ++i) load_layer(i);
    weights_.final_norm = norm(names_.final_norm, width, true);
    load_head();
    finish();
    return std::move(weights_);
  }

 private:
  std::string layer_name(const std::string& name) const {
    return names_.layer_prefix + std::to_string(layer_) + "." + name;
  }
  static std::string expert_name(const std::string& pattern, int64_t expert) {
    size_t at = pattern.find('#');
    return pattern.substr(0, at) + std::to_string(expert) + pattern.substr(at + 1);
  }
  bool has(const std::string& name) const {
    return !name.empty() && file_.find(name + ".weight") != nullptr;
  }

  const TensorView& get(const std::string& name) {
    const TensorView* view = file_.find(name);
    if (view == nullptr) {
      fail(Code::kInvalidArgument,
           "{}: tensor '{}' is missing (architecture {}); the file is incomplete, download or "
           "convert it again",
           file_.path(), name, config_.family.name);
    }
    used_.insert(name);
    return *view;
  }

  void require_shape(const std::string& name, const TensorView& view, const Shape& expected) const {
    if (view.shape == expected) return;
    fail(Code::kInvalidArgument,
         "{}: tensor '{}' has shape {}, expected {} from {}; the two do not belong together, "
         "download or convert the model again",
         file_.path(), name, to_string(view.shape), to_string(expected),
         is_gguf_ ? "the metadata" : config_.source);
  }

  void require_float(const std::string& name, const TensorView& view) const {
    if (kernels_.dequantize[static_cast<int>(view.type)] != nullptr) return;
    fail(Code::kUnimplemented,
         "{}: tensor '{}' has type {}, which cannot be a weight; convert the model to f16 or a "
         "supported quantised type",
         file_.path(), name, sluice::name(view.type));
  }

  void require_matrix_type(const std::string& name, const TensorView& view) const {
    require_float(name, view);
    if (kernels_.matmul[static_cast<int>(view.type)].multiply != nullptr) return;
    fail(
        Code::kUnimplemented,
        "{}: tensor '{}' has type {}, for which there is no product; convert the model to f16 or a "
        "supported quantised type",
        file_.path(), name, sluice::name(view.type));
  }

  void count(const TensorView& view) {
    int64_t elements = view.num_rows() * view.row_size();
    weights_.num_parameters += elements;
    weights_.weight_bytes += view.num_bytes();
    elements_by_type_[static_cast<size_t>(view.type)] += elements;
  }

  uint8_t* own(int64_t bytes) {
    weights_.owned.push_back(std::make_unique<uint8_t[]>(static_cast<size_t>(bytes)));
    return weights_.owned.back().get();
  }

  // Any weight type -> owned f32 [size].
  const float* vector(const std::string& name, int64_t size, float added = 0) {
    const TensorView& view = get(name);
    require_shape(name, view, {size});
    require_float(name, view);
    count(view);
    float* out = reinterpret_cast<float*>(own(size * 4));
    kernels_.dequantize[static_cast<int>(view.type)](view.data, out, size);
    if (added != 0) {
      for (int64_t i = 0; i < size; ++i) out[i] += added;
    }
    return out;
  }

  Norm norm(const std::string& name, int64_t size, bool required) {
    if (!required && !has(name)) return {};
    Norm n;
    n.weight =
        vector(name + ".weight", size, !is_gguf_ && config_.family.hf_norm_plus_one ? 1.0f : 0.0f);
    if (config_.family.norm_bias || file_.find(name + ".bias") != nullptr)
      n.bias = vector(name + ".bias", size);
    return n;
  }

  // [inputs, outputs] -> owned [outputs, inputs] of the same plain type.
  TensorView transpose(const std::string& name, const TensorView& view) {
    if (get_info(view.type).block_size != 1) {
      fail(Code::kUnimplemented,
           "{}: tensor '{}' is transposed and quantised ({}); convert the model again",
           file_.path(), name, sluice::name(view.type));
    }
    int64_t inputs = view.shape[0], outputs = view.shape[1], size = get_info(view.type).block_bytes;
    weights_.owned_matrices.push_back(std::make_unique<uint8_t[]>(static_cast<size_t>(inputs * outputs * size)));
    uint8_t* out = weights_.owned_matrices.back().get();
    constexpr int64_t kTile = 32;  // both sides of a tile stay in the cache
    for (int64_t i0 = 0; i0 < inputs; i0 += kTile) {
      for (int64_t o0 = 0; o0 < outputs; o0 += kTile) {
        for (int64_t i = i0; i < std::min(i0 + kTile, inputs); ++i) {
          for (int64_t o = o0; o < std::min(o0 + kTile, outputs); ++o) {
            std::memcpy(out + (o * inputs + i) * size, view.data + (i * outputs + o) * size,
                        static_cast<size_t>(size));
          }
        }
      }
    }
    return {.type = view.type, .shape = {outputs, inputs}, .data = out};
  }

  const float* fp8_scale(const std::string& name, const TensorView& view) {
    if (view.type != DType::kF8E4M3) return nullptr;
    if (file_.find(name + ".weight_scale_inv") != nullptr) {
      fail(
          Code::kUnimplemented,
          "{}: tensor '{}' is FP8 with one scale a block, which is not supported; use FP8 with one "
          "scale a tensor, or another format",
          file_.path(), name + ".weight");
    }
    const std::string scale_name = name + ".weight_scale";
    if (file_.find(scale_name) == nullptr) return nullptr;
    const TensorView& scale = get(scale_name);
    require_float(scale_name, scale);
    int64_t elements = scale.num_rows() * scale.row_size(), outputs = view.shape[0];
    if (elements != 1 && elements != outputs) {
      fail(Code::kUnimplemented,
           "{}: tensor '{}' has shape {}, expected one scale or one for each of {} rows; scales of "
           "blocks are not supported",
           file_.path(), scale_name, to_string(scale.shape), outputs);
    }
    float* out = reinterpret_cast<float*>(own(outputs * 4));
    kernels_.dequantize[static_cast<int>(scale.type)](scale.data, out, elements);
    if (elements == 1) std::fill(out, out + outputs, out[0]);
    return out;
  }

  Linear linear(const std::string& name, int64_t outputs, int64_t inputs, bool needs_bias) {
    const std::string full = name + ".weight";
    const TensorView& view = get(full);
    bool transposed = names_.transposed && name != names_.embedding && name != names_.head;
    require_shape(full, view, transposed ? Shape{inputs, outputs} : Shape{outputs, inputs});
    require_matrix_type(full, view);
    count(view);
    Linear l{.weight = transposed ? transpose(full, view) : view};
    l.scale = fp8_scale(name, view);
    if (needs_bias || file_.find(name + ".bias") != nullptr)
      l.bias = vector(name + ".bias", outputs);
    return l;
  }

  // Rows [first, first + count) of a matrix, as a matrix.
  static Linear rows(const Linear& whole, int64_t first, int64_t count) {
    Linear part = whole;
    part.weight.shape[0] = count;
    part.weight.data += first * row_bytes(whole.weight.type, whole.num_inputs());
    if (part.scale != nullptr) part.scale += first;
    if (part.bias != nullptr) part.bias += first;
    return part;
  }

  void load_embedding() {
    const std::string name = names_.embedding + ".weight";
    const TensorView& view = get(name);
    if (view.shape.size() != 2 || view.shape[0] < 1)
      require_shape(name, view, {config_.vocab_size, config_.width});
    if (config_.vocab_size == 0) config_.vocab_size = view.shape[0];
    weights_.embedding = linear(names_.embedding, config_.vocab_size, config_.width, false);
  }

  void load_head() {
    bool tied = config_.tied_embeddings.value_or(!has(names_.head));
    if (tied) {
      if (has(names_.head)) used_.insert(names_.head + ".weight");  // saved twice
      weights_.head = weights_.embedding;
      return;
    }
    weights_.head = linear(names_.head, config_.vocab_size, config_.width, false);
  }

  void load_layer(int64_t index) {
    layer_ = index;
    weights_.layers.emplace_back();
    LayerWeights& layer = weights_.layers.back();
    const Config& c = config_;
    const Family& f = c.family;
    layer.attention_norm = norm(layer_name(names_.attention_norm), c.width, f.pre_norms);
    // Some members of a family drop the second norm and read the layer's input in both branches.
    if (f.pre_norms && !f.shared_norm)
      layer.ffn_norm = norm(layer_name(names_.ffn_norm), c.width, true);
    if (f.post_norms) {
      layer.attention_post_norm = norm(layer_name(names_.attention_post_norm), c.width, true);
      layer.ffn_post_norm = norm(layer_name(names_.ffn_post_norm), c.width, true);
    }
    if (f.qk_norm != QkNorm::kNone) {
      bool full = f.qk_norm == QkNorm::kFullWidth;
      layer.q_norm = norm(layer_name(names_.q_norm), full ? c.query_width() : c.head_dim, true);
      layer.k_norm = norm(layer_name(names_.k_norm), full ? c.kv_width() : c.head_dim, true);
    } else if (has(layer_name(names_.q_norm))) {
      fail(Code::kUnimplemented, "{}: tensor '{}' is unexpected, {} models with query norms are not supported",
           file_.path(), layer_name(names_.q_norm) + ".weight", f.name);
    }
    load_attention(layer);
    if (c.layers[static_cast<size_t>(index)].has_experts) {
      load_experts(layer);
    } else {
      load_ffn(layer);
    }
  }

  void load_attention(LayerWeights& layer) {
    const Config& c = config_;
    bool bias = c.family.qkv_bias;
    if (has(layer_name(names_.qkv)) || (names_.transposed && !has(layer_name(names_.q)))) {
      Linear qkv =
          linear(layer_name(names_.qkv), c.query_width() + 2 * c.kv_width(), c.width, bias);
      layer.q = rows(qkv, 0, c.query_width());
      layer.k = rows(qkv, c.query_width(), c.kv_width());
      layer.v = rows(qkv, c.query_width() + c.kv_width(), c.kv_width());
    } else {
      layer.q = linear(layer_name(names_.q), c.query_width(), c.width, bias);
      layer.k = linear(layer_name(names_.k), c.kv_width(), c.width, bias);
      layer.v = linear(layer_name(names_.v), c.kv_width(), c.width, bias);
    }
    layer.output =
        linear(layer_name(names_.output), c.width, c.query_width(), c.family.output_bias);
  }

  void load_ffn(LayerWeights& layer) {
    const Config& c = config_;
    bool bias = c.family.ffn_bias;
    if (c.family.gated && !has(layer_name(names_.gate)) && has(layer_name(names_.gate_up))) {
      Linear both = linear(layer_name(names_.gate_up), 2 * c.ffn_width, c.width, bias);
      layer.gate = rows(both, 0, c.ffn_width);
      layer.up = rows(both, c.ffn_width, c.ffn_width);
    } else {
      if (c.family.gated) layer.gate = linear(layer_name(names_.gate), c.ffn_width, c.width, bias);
      layer.up = linear(layer_name(names_.up), c.ffn_width, c.width, bias);
    }
    layer.down = linear(layer_name(names_.down), c.width, c.ffn_width, bias);
  }

  // [num_experts, outputs, inputs] in one tensor -> one matrix an expert.
  std::vector<Linear> split_experts(const std::string& name, int64_t outputs, int64_t inputs) {
    const std::string full = name + ".weight";
    const TensorView& view = get(full);
    require_shape(full, view, {config_.num_experts, outputs, inputs});
    require_matrix_type(full, view);
    count(view);
    std::vector<Linear> experts;
    int64_t bytes = outputs * row_bytes(view.type, inputs);
    for (int64_t e = 0; e < config_.num_experts; ++e) {
      experts.push_back(
          {.weight = {
               .type = view.type, .shape = {outputs, inputs}, .data = view.data + e * bytes}});
    }
    return experts;
  }

  void load_experts(LayerWeights& layer) {
    const Config& c = config_;
    layer.router = linear(layer_name(names_.router), c.num_experts, c.width, false);
    int64_t ffn = c.expert_ffn_width;
    if (has(layer_name(names_.expert_gate_all)) ||
        (is_gguf_ && !has(layer_name(expert_name(names_.expert_gate, 0))))) {
      auto gates = split_experts(layer_name(names_.expert_gate_all), ffn, c.width);
      auto ups = split_experts(layer_name(names_.expert_up_all), ffn, c.width);
      auto downs = split_experts(layer_name(names_.expert_down_all), c.width, ffn);
      for (size_t e = 0; e < gates.size(); ++e)
        layer.experts.push_back({gates[e], ups[e], downs[e]});
      return;
    }
    for (int64_t e = 0; e < c.num_experts; ++e) {
      Linear gate = linear(layer_name(expert_name(names_.expert_gate, e)), ffn, c.width, false);
      Linear up = linear(layer_name(expert_name(names_.expert_up, e)), ffn, c.width, false);
      layer.experts.push_back(
          {gate, up, linear(layer_name(expert_name(names_.expert_down, e)), c.width, ffn, false)});
    }
  }

  void finish() {
    size_t most = 0;
    for (size_t type = 0; type < elements_by_type_.size(); ++type) {
      if (elements_by_type_[type] > elements_by_type_[most]) most = type;
    }
    weights_.main_type = static_cast<DType>(most);
    for (const formats::TensorEntry& entry : file_.tensors()) {
      if (!used_.contains(entry.name) && !is_known_extra(entry.name))
        weights_.unused_tensors.push_back(entry.name);
    }
    if (!weights_.unused_tensors.empty()) {
      LOG(warning, "{}: {} tensors are not used by architecture {}, the first is '{}'",
          file_.path(), weights_.unused_tensors.size(), config_.family.name,
          weights_.unused_tensors[0]);
    }
  }

  const formats::WeightFile& file_;
  Config& config_;
  const TensorNames names_;
  const bool is_gguf_;
  const kernels::Kernels& kernels_ = kernels::get_kernels();
  int64_t layer_ = 0;
  Weights weights_;
  std::set<std::string, std::less<>> used_;
  std::array<int64_t, kNumDTypes> elements_by_type_{};
};

}  // namespace

Weights load_weights(std::shared_ptr<const formats::WeightFile> file, Config& config) {
  return Loader(std::move(file), config).load();
}

}  // namespace sluice::llm
