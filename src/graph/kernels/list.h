// The functions that name the ways to compute an operator; table.cc says which is for which.
#pragma once

#include <vector>

#include "graph/kernels/kernel.h"

namespace sluice::graph::kernels {

// Whether all tensors have elements that make_reorder() moves: no more than 4 bytes.
bool can_reorder(const KernelRequest& request);

std::vector<KernelChoice> list_conv(const KernelRequest& request);
std::vector<KernelChoice> list_matmul(const KernelRequest& request);
std::vector<KernelChoice> list_pool(const KernelRequest& request);
std::vector<KernelChoice> list_global_pool(const KernelRequest& request);
std::vector<KernelChoice> list_permuted(const KernelRequest& request);
std::vector<KernelChoice> list_quantised_pool(const KernelRequest& request);
std::vector<KernelChoice> list_attention(const KernelRequest& request);
std::vector<KernelChoice> list_layer_norm(const KernelRequest& request);
std::vector<KernelChoice> list_quantise(const KernelRequest& request);
std::vector<KernelChoice> list_dynamic_quantise(const KernelRequest& request);
std::vector<KernelChoice> list_concat(const KernelRequest& request);

}  // namespace sluice::graph::kernels
