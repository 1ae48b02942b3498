#include "llm/transformer.h"

#include "base/error.h"

namespace sluice::llm {
namespace {

// 1.1B, 124M, 260K: as people call models.
std::string format_count(int64_t count) {
  double value = static_cast<double>(count);
  if (count >= 99'950'000'000) return fmt::format("{:.0f}B", value / 1e9);
  if (count >= 999'500'000) return fmt::format("{:.1f}B", value / 1e9);
  if (count >= 9'950'000) return fmt::format("{:.0f}M", value / 1e6);
  if (count >= 999'500) return fmt::format("{:.1f}M", value / 1e6);
  if (count >= 1000) return fmt::format("{:.0f}K", value / 1e3);
  return std::to_string(count);
}

}  // namespace

Transformer::Transformer(Config config, Weights weights, ThreadPool& pool)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      kernels_(kernels::get_kernels()),
      pool_(pool),
      workers_(static_cast<size_t>(pool.num_threads())),
      rotations_(config_.ropes.size()) {}

KvLayout Transformer::kv_layout(DType kv_type) const {
  if (kernels_.attention[static_cast<int>(kv_type)] == nullptr) {
    fail(Code::kInvalidArgument, "KV cache type {} is not possible; use f16, bf16, f32 or q8_0",
         name(kv_type));
  }
  int block = get_info(kv_type).block_size;
  if (config_.head_dim % block != 0) {
    fail(Code::kInvalidArgument,
         "KV cache type {} needs heads of a multiple of {} elements, this model has {}; use f16 or "
         "bf16",
         name(kv_type), block, config_.head_dim);
  }
  return {.num_layers = static_cast<int>(config_.num_layers()),
          .num_kv_heads = static_cast<int>(config_.num_kv_heads),
          .head_dim = static_cast<int>(config_.head_dim),
          .type = kv_type};
}

std::string Transformer::description() const {
  std::string experts =
      config_.num_experts > 0
          ? fmt::format(", {} of {} experts", config_.num_experts_used, config_.num_experts)
          : "";
  return fmt::format("{} {} {}, {} layers{}, {} wide, context {}", config_.family.name,
                     format_count(weights_.num_parameters), name(weights_.main_type),
                     config_.num_layers(), experts, config_.width, config_.max_positions);
}

}  // namespace sluice::llm
