// Which operators have kernels.
#include "graph/kernels/list.h"
#include "graph/kernels/onednn.h"

#include <algorithm>

#include "base/check.h"

namespace sluice::graph {
namespace {

using List = std::vector<KernelChoice> (*)(const KernelRequest& request);

struct Entry {
  const char* domain;
  const char* op;
  List list;
};

constexpr Entry kEntries[] = {
    {"", "Conv", kernels::list_conv},
    {"com.microsoft", "FusedConv", kernels::list_conv},
    {"sluice", "QConv", kernels::list_conv},
    {"", "MatMul", kernels::list_matmul},
    {"", "Gemm", kernels::list_matmul},
    {"sluice", "FusedMatMul", kernels::list_matmul},
    {"sluice", "QMatMul", kernels::list_matmul},
    {"", "MaxPool", kernels::list_pool},
    {"", "AveragePool", kernels::list_pool},
    {"", "GlobalAveragePool", kernels::list_global_pool},
    {"com.microsoft", "QLinearGlobalAveragePool", kernels::list_quantised_pool},
    {"", "QuantizeLinear", kernels::list_quantise},
    {"", "DynamicQuantizeLinear", kernels::list_dynamic_quantise},
    {"", "Concat", kernels::list_concat},
    {"", "Attention", kernels::list_attention},
    {"", "LayerNormalization", kernels::list_layer_norm},
};

}  // namespace

bool kernels::can_reorder(const KernelRequest& request) {
  auto fits = [](const TensorInfo& info) {
    const int bytes = get_info(info.type).bytes;
    return bytes <= 4 && (bytes != 2 || onednn::has_avx512());
  };
  return std::all_of(request.inputs.begin(), request.inputs.end(), fits) &&
         std::all_of(request.outputs.begin(), request.outputs.end(), fits);
}

std::vector<KernelChoice> list_kernels(const KernelRequest& request) {
  for (const Entry& entry : kEntries) {
    if (request.node.op_type == entry.op && request.node.domain == entry.domain) return entry.list(request);
  }
  return kernels::list_permuted(request);
}

const char* name(Layout layout) {
  switch (layout) {
    case Layout::kPlain: return "plain";
    case Layout::kChannelsLast: return "nhwc";
    case Layout::kBlocked16: return "blocked16";
  }
  return "?";
}

int64_t bytes_of(const TensorInfo& info) {
  int64_t count = info.shape.count();
  if (info.layout == Layout::kBlocked16 && info.shape[1] > 0) {
    count = count / info.shape[1] * ((info.shape[1] + 15) / 16 * 16);
  }
  return count * get_info(info.type).bytes;
}

std::string to_string(const TensorInfo& info) {
  std::string text = std::string(name(info.type)) + " " + to_string(info.shape);
  if (info.layout != Layout::kPlain) text += std::string(" ") + name(info.layout);
  return text;
}

std::string PackedWeights::key_of(const Tensor& constant, const std::string& order) {
  const void* data = constant.raw();
  std::string key(reinterpret_cast<const char*>(&data), sizeof data);
  // The same memory may be a constant of another shape, too.
  return key + graph::to_string(constant) + order;
}

Tensor PackedWeights::get(const Tensor& constant, const std::string& order, ElementType type, const Shape& shape,
                          const std::function<Tensor()>& make) {
  const std::string key = key_of(constant, order);
  auto find = [&]() -> const Tensor* {
    const auto found = entries_.find(key);
    // What a file has put here may be of another size than what is read.
    const bool fits = found != entries_.end() && found->second.packed.type() == type &&
                      found->second.packed.shape() == shape;
    return fits ? &found->second.packed : nullptr;
  };
  {
    const std::lock_guard lock(mutex_);
    if (const Tensor* packed = find()) return *packed;
  }
  Tensor made = make();
  CHECK(made.type() == type && made.shape() == shape, graph::to_string(made));
  const std::lock_guard lock(mutex_);
  if (const Tensor* packed = find()) return *packed;
  return entries_.insert_or_assign(key, Entry{constant, order, std::move(made)}).first->second.packed;
}

void PackedWeights::put(const Tensor& constant, const std::string& order, Tensor packed) {
  const std::lock_guard lock(mutex_);
  entries_.insert_or_assign(key_of(constant, order), Entry{constant, order, std::move(packed)});
}

std::vector<PackedWeights::Entry> PackedWeights::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<Entry> entries;
  for (const auto& [key, entry] : entries_) entries.push_back(entry);
  return entries;
}

void PackedWeights::forget_unused() {
  const std::lock_guard lock(mutex_);
  // What is packed may be the constant of another entry.
  while (std::erase_if(entries_, [](const auto& item) { return item.second.constant.is_unique(); }) > 0) {
  }
}

int64_t PackedWeights::bytes() const {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  for (const auto& [key, entry] : entries_) bytes += entry.packed.bytes();
  return bytes;
}

}  // namespace sluice::graph
