// The list of all operators, and why some are missing.
#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "graph/op.h"
#include "graph/ops/ops.h"

namespace sluice::graph {
namespace {

using Group = std::span<const OpInfo> (*)();
constexpr Group kGroups[] = {
    ops::elementwise_ops,
    ops::compare_ops,
    ops::unary_ops,
    ops::activation_ops,
    ops::cast_ops,
    ops::quantize_ops,
    ops::qlinear_ops,
    ops::qfused_ops,
    ops::random_ops,
    ops::reduce_ops,
    ops::scan_axis_ops,
    ops::softmax_ops,
    ops::loss_ops,
    ops::shape_ops,
    ops::join_ops,
    ops::index_ops,
    ops::slice_ops,
    ops::pad_ops,
    ops::resize_ops,
    ops::select_ops,
    ops::transpose_ops,
    ops::fill_ops,
    ops::scatter_ops,
    ops::grid_ops,
    ops::boxes_ops,
    ops::fold_ops,
    ops::matmul_ops,
    ops::conv_ops,
    ops::pool_ops,
    ops::norm_ops,
    ops::matmul_integer_ops,
    ops::matmul_nbits_ops,
    ops::linalg_ops,
    ops::conv_integer_ops,
    ops::conv_transpose_ops,
    ops::deform_conv_ops,
    ops::unpool_ops,
    ops::recurrent_ops,
    ops::attention_ops,
    ops::signal_ops,
    ops::quantized_lstm_ops,
    ops::rotary_ops,
    ops::flex_attention_ops,
    ops::linear_attention_ops,
    ops::window_ops,
    ops::contrib_attention_ops,
    ops::group_query_attention_ops,
    ops::contrib_norm_ops,
    ops::control_ops,
    ops::scan_ops,
    ops::sequence_ops,
    ops::text_ops,
    ops::tfidf_ops,
    ops::ml_ops,
    ops::ml_label_ops,
    ops::ml_linear_ops,
    ops::ml_tree_ops,
    ops::image_ops,
    ops::fused_ops,
};

// Left out on purpose.
struct OutOfScope {
  const char *domain, *name, *reason;
};
constexpr OutOfScope kOutOfScope[] = {
    {"ai.onnx.preview.training", "", "operators of training are out of scope: models are served here, not trained"},
};

std::string_view canonical(std::string_view domain) { return domain == "ai.onnx" ? std::string_view() : domain; }

auto key_of(const OpInfo* op) {
  return std::make_tuple(std::string_view(op->domain), std::string_view(op->name), op->first_opset);
}

const std::vector<const OpInfo*>& table() {
  static const std::vector<const OpInfo*> ops = [] {
    std::vector<const OpInfo*> all;
    for (const Group group : kGroups) {
      for (const OpInfo& op : group()) all.push_back(&op);
    }
    std::sort(all.begin(), all.end(), [](const OpInfo* a, const OpInfo* b) { return key_of(a) < key_of(b); });
    for (size_t i = 1; i < all.size(); ++i) CHECK(key_of(all[i - 1]) != key_of(all[i]), all[i]->domain, all[i]->name);
    return all;
  }();
  return ops;
}

// The lines of one operator, whatever their versions.
std::span<const OpInfo* const> find_versions(std::string_view domain, std::string_view name) {
  const auto& ops = table();
  const auto key = std::make_tuple(canonical(domain), name);
  auto key_without_opset = [](const OpInfo* op) {
    return std::make_tuple(std::string_view(op->domain), std::string_view(op->name));
  };
  const auto begin = std::lower_bound(ops.begin(), ops.end(), key,
                                      [&](const OpInfo* op, const auto& k) { return key_without_opset(op) < k; });
  auto end = begin;
  while (end != ops.end() && key_without_opset(*end) == key) ++end;
  return {begin, end};
}

}  // namespace

const OpInfo* find_op(std::string_view domain, std::string_view name, int opset) {
  const OpInfo* found = nullptr;
  for (const OpInfo* op : find_versions(domain, name)) {
    if (op->first_opset <= opset && (op->last_opset == 0 || opset <= op->last_opset)) found = op;
  }
  return found;
}

std::vector<const OpInfo*> list_ops() { return table(); }

std::string explain_missing_op(std::string_view domain, std::string_view name, int opset) {
  for (const OutOfScope& out : kOutOfScope) {
    if (canonical(domain) == out.domain && (*out.name == 0 || name == out.name)) return out.reason;
  }
  const auto versions = find_versions(domain, name);
  if (!versions.empty()) {
    const OpInfo& first = *versions.front();
    if (opset < first.first_opset) {
      return fmt::format("there is no {} in opset {}: it came with opset {}", name, opset, first.first_opset);
    }
    return fmt::format("opset {} has no {} any more: its last opset is {}", opset, name, versions.back()->last_opset);
  }
  for (const OpInfo* op : table()) {
    if (name == op->name) {
      return fmt::format("there is no {} in domain '{}', but in '{}'", name,
                         canonical(domain).empty() ? "ai.onnx" : domain, *op->domain == 0 ? "ai.onnx" : op->domain);
    }
  }
  const auto same_domain =
      std::find_if(table().begin(), table().end(), [&](const OpInfo* op) { return canonical(domain) == op->domain; });
  if (same_domain == table().end()) {
    return fmt::format("domain '{}' is not known and the model has no function {} in it", domain, name);
  }
  return "no operator of this name is known";
}

}  // namespace sluice::graph
