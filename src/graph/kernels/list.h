// The functions that name the ways to compute an operator; table.cc says which is for which.
#pragma once

#include <vector>

#include "graph/kernels/kernel.h"

namespace sluice::graph::kernels {

std::vector<KernelChoice> list_conv(const KernelRequest& request);
std::vector<KernelChoice> list_matmul(const KernelRequest& request);
std::vector<KernelChoice> list_pool(const KernelRequest& request);
std::vector<KernelChoice> list_global_pool(const KernelRequest& request);
std::vector<KernelChoice> list_permuted(const KernelRequest& request);
std::vector<KernelChoice> list_attention(const KernelRequest& request);
std::vector<KernelChoice> list_concat(const KernelRequest& request);

}  // namespace sluice::graph::kernels
