// The operators by group, one group a file of this folder. op_table.cc puts them together.
#pragma once

#include <span>

#include "graph/op.h"

namespace sluice::graph::ops {

std::span<const OpInfo> elementwise_ops();
std::span<const OpInfo> compare_ops();
std::span<const OpInfo> unary_ops();
std::span<const OpInfo> activation_ops();
std::span<const OpInfo> cast_ops();
std::span<const OpInfo> quantize_ops();
std::span<const OpInfo> qlinear_ops();
std::span<const OpInfo> qfused_ops();
std::span<const OpInfo> random_ops();
std::span<const OpInfo> reduce_ops();
std::span<const OpInfo> scan_axis_ops();
std::span<const OpInfo> softmax_ops();
std::span<const OpInfo> loss_ops();
std::span<const OpInfo> shape_ops();
std::span<const OpInfo> transpose_ops();
std::span<const OpInfo> fill_ops();
std::span<const OpInfo> join_ops();
std::span<const OpInfo> index_ops();
std::span<const OpInfo> scatter_ops();
std::span<const OpInfo> slice_ops();
std::span<const OpInfo> pad_ops();
std::span<const OpInfo> resize_ops();
std::span<const OpInfo> grid_ops();
std::span<const OpInfo> boxes_ops();
std::span<const OpInfo> fold_ops();
std::span<const OpInfo> select_ops();
std::span<const OpInfo> matmul_ops();
std::span<const OpInfo> matmul_integer_ops();
std::span<const OpInfo> matmul_nbits_ops();
std::span<const OpInfo> linalg_ops();
std::span<const OpInfo> conv_ops();
std::span<const OpInfo> conv_integer_ops();
std::span<const OpInfo> conv_transpose_ops();
std::span<const OpInfo> deform_conv_ops();
std::span<const OpInfo> pool_ops();
std::span<const OpInfo> unpool_ops();
std::span<const OpInfo> norm_ops();
std::span<const OpInfo> recurrent_ops();
std::span<const OpInfo> quantized_lstm_ops();
std::span<const OpInfo> attention_ops();
std::span<const OpInfo> rotary_ops();
std::span<const OpInfo> flex_attention_ops();
std::span<const OpInfo> linear_attention_ops();
std::span<const OpInfo> signal_ops();
std::span<const OpInfo> window_ops();
std::span<const OpInfo> contrib_attention_ops();
std::span<const OpInfo> group_query_attention_ops();
std::span<const OpInfo> contrib_norm_ops();
std::span<const OpInfo> control_ops();
std::span<const OpInfo> scan_ops();
std::span<const OpInfo> sequence_ops();
std::span<const OpInfo> text_ops();
std::span<const OpInfo> tfidf_ops();
std::span<const OpInfo> ml_ops();
std::span<const OpInfo> ml_label_ops();
std::span<const OpInfo> ml_linear_ops();
std::span<const OpInfo> ml_tree_ops();
std::span<const OpInfo> image_ops();
std::span<const OpInfo> fused_ops();

}  // namespace sluice::graph::ops
