// Indices as the gathers and scatters take them, checked and turned into offsets. Every function throws an Error that
// names the first index outside its dimension.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/op.h"

namespace sluice::graph::ops {

// Each index, negative ones counted from the end of a dimension of `length`, times `step`.
std::vector<int64_t> read_indices(const RunContext& context, const Tensor& indices, int64_t length, int64_t step);

// Of GatherElements and ScatterElements: element (i, j, k) of `indices` says which of (?, j, k), (i, ?, k) or
// (i, j, ?) of a tensor of shape `data` is meant.
std::vector<int64_t> element_offsets(const RunContext& context, const Shape& data, const Tensor& indices, int axis);
// Throws Error unless indices of that shape fit: as many dimensions, none but the axis larger.
void check_elements_shape(const InferContext& context, int axis, const Dims& data, const Dims& indices);

// Of GatherND and ScatterND: the last dimension of `indices` holds a place in the dimensions after the first
// `batch_dims`, which both share.
std::vector<int64_t> tuple_offsets(const RunContext& context, const Shape& data, const Tensor& indices, int batch_dims);

// For each of `outer` places, `outer_step` elements apart, the runs of `run` elements at all offsets, one after the
// other.
void copy_runs(const Tensor& input, Tensor& output, std::span<const int64_t> offsets, int64_t run, int64_t outer,
               int64_t outer_step, ThreadPool& pool);

}  // namespace sluice::graph::ops
