// Normalisations and fused biases of com.microsoft, as ONNX Runtime's contrib operator documents define them:
// SkipLayerNormalization, SkipSimplifiedLayerNormalization, EmbedLayerNormalization, GroupNorm, SkipGroupNorm, BiasAdd,
// BiasSplitGelu and BiasSoftmax; and LayerNormalization and SimplifiedLayerNormalization, which it exports in both
// domains.
//
// The fused ones compute row by row: what is added, statistics, result. Statistics that training reads (mean and
// inverse deviation) are given where the model names them. BiasSoftmax adds a bias that broadcasts as NumPy has it,
// which is what either value of is_inner_broadcast says of the shapes it is used with, so the attribute needs no look.
#include <array>
#include <cmath>

#include "graph/ops/layer_norm.h"
#include "graph/ops/norm_math.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

// Throws Error unless the input is f32 of so many elements. Null if it is left out.
const float* read_floats(const RunContext& context, int input, int64_t count) {
  if (!context.has_input(input)) return nullptr;
  const Tensor& tensor = context.input(input);
  if (tensor.type() != ElementType::kF32) context.fail_type(input);
  if (tensor.count() != count) context.fail("input {} has {} elements and needs {}", input + 1, tensor.count(), count);
  return tensor.data<float>();
}

// Skip connections

void infer_skip_norm(InferContext& context) {
  const ValueType& x = context.type(0);
  context.type(1);
  context.set_type(0, x);
  context.set_type(3, x);
  context.set_output(1, ElementType::kF32);
  context.set_output(2, ElementType::kF32);
  if (!x.has_rank()) return;
  if (x.rank() < 2) context.fail("an input of shape {}; [batch, length, hidden] is needed", to_string(*x.dims));
  Dims statistics = *x.dims;
  statistics.back() = 1;
  context.set_output(1, ElementType::kF32, statistics);
  context.set_output(2, ElementType::kF32, statistics);
}

void run_skip_norm(RunContext& context, bool has_mean) {
  const Tensor &x = context.input(0), &skip = context.input(1);
  if (x.type() != ElementType::kF32) context.fail_type(0);
  const int64_t hidden = x.shape().back(), count = x.count();
  // The skipped tensor may lack the batch.
  const bool is_whole = skip.shape() == x.shape();
  const Shape image = Shape(std::span(x.shape().begin() + 1, x.shape().end()));
  Shape single = x.shape();
  single[0] = 1;
  if (!is_whole && !(skip.shape() == image) && !(skip.shape() == single)) {
    context.fail("a skip of shape {} does not fit an input of shape {}", to_string(skip.shape()), to_string(x.shape()));
  }
  const float* skipped = read_floats(context, 1, skip.count());
  context.input(2);
  const float* gamma = read_floats(context, 2, hidden);
  const float* beta = has_mean ? read_floats(context, 3, hidden) : nullptr;
  const float* bias = read_floats(context, has_mean ? 4 : 3, hidden);
  const double epsilon = context.node().get_float("epsilon", 1e-12f);
  if (count == 0) return;
  const int64_t period = skip.count() / hidden;
  float* const y = context.output_data<float>(0);
  float* const means = context.has_output(1) ? context.output_data<float>(1) : nullptr;
  float* const inverses = context.has_output(2) ? context.output_data<float>(2) : nullptr;
  float* const sums = context.has_output(3) ? context.output_data<float>(3) : y;
  context.pool().parallel_for(
      count / hidden, std::max<int64_t>(1, (1 << 13) / hidden), [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          const float *a = x.data<float>() + r * hidden, *b = skipped + r % period * hidden;
          float* sum = sums + r * hidden;
          if (bias == nullptr)
            for (int64_t i = 0; i < hidden; ++i) sum[i] = a[i] + b[i];
          else
            for (int64_t i = 0; i < hidden; ++i) sum[i] = a[i] + b[i] + bias[i];
          const double mean = has_mean ? mean_of(sum, hidden) : 0;
          const double variance = has_mean ? variance_of(sum, hidden, mean) : mean_square_of(sum, hidden);
          const double factor = 1 / std::sqrt(variance + epsilon);
          normalize_row(sum, hidden, static_cast<float>(mean), static_cast<float>(factor), gamma, beta, y + r * hidden);
          if (means != nullptr) means[r] = static_cast<float>(mean);
          if (inverses != nullptr) inverses[r] = static_cast<float>(factor);
        }
      });
}

void run_skip_layer_norm(RunContext& context) { run_skip_norm(context, true); }
void run_skip_rms_norm(RunContext& context) { run_skip_norm(context, false); }

// EmbedLayerNormalization: the sum of three embeddings, normalised.

void infer_embed_norm(InferContext& context) {
  const ElementType element = context.element(2);
  context.set_output(0, element);
  context.set_output(1, ElementType::kI32);
  context.set_output(2, element);
  if (!context.has_rank(0)) return;
  if (context.rank(0) != 2) context.fail("ids of shape {}; [batch, length] is needed", to_string(context.dims(0)));
  Dims dims = context.dims(0);
  context.set_output(1, ElementType::kI32, {dims[0]});
  Dim hidden = Dim::unknown();
  if (context.has_rank(2)) {
    if (context.rank(2) != 2) context.fail("a word embedding of shape {} is no table", to_string(context.dims(2)));
    hidden = context.dims(2)[1];
  }
  dims.push_back(hidden);
  context.set_output(0, element, dims);
  context.set_output(2, element, dims);
}

struct Table {
  const float* rows = nullptr;
  int64_t num_rows = 0;
};
Table read_table(const RunContext& context, int input, int64_t hidden) {
  if (!context.has_input(input)) return {};
  const Tensor& tensor = context.input(input);
  if (tensor.type() != ElementType::kF32) context.fail_type(input);
  if (tensor.rank() != 2 || tensor.dim(1) != hidden) {
    context.fail("input {} has shape {}; rows of {} are needed", input + 1, to_string(tensor.shape()), hidden);
  }
  return {tensor.data<float>(), tensor.dim(0)};
}

void run_embed_norm(RunContext& context) {
  const Tensor& ids = context.input(0);
  const int64_t batch = ids.dim(0), length = ids.dim(1), hidden = context.input(2).dim(1), count = ids.count();
  const Table words = read_table(context, 2, hidden), positions = read_table(context, 3, hidden);
  const Table segments = read_table(context, 4, hidden);
  const float *gamma = read_floats(context, 5, hidden), *beta = read_floats(context, 6, hidden);
  const double epsilon = context.node().get_float("epsilon", 1e-12f);
  auto read_rows = [&](int input, const Table& table, bool may_be_single) {
    if (!context.has_input(input)) return std::vector<int64_t>();
    const Tensor& tensor = context.input(input);
    if (tensor.count() != count && !(may_be_single && tensor.count() == length)) {
      context.fail("input {} has shape {}; that of the ids is {}", input + 1, to_string(tensor.shape()),
                   to_string(ids.shape()));
    }
    std::vector<int64_t> rows = to_ints(tensor);
    for (const int64_t row : rows) {
      if (row < 0 || row >= table.num_rows)
        context.fail("input {} holds {}; its table has {} rows", input + 1, row, table.num_rows);
    }
    return rows;
  };
  const std::vector<int64_t> word_rows = read_rows(0, words, false);
  const std::vector<int64_t> segment_rows =
      segments.rows == nullptr ? std::vector<int64_t>() : read_rows(1, segments, false);
  const std::vector<int64_t> position_rows = read_rows(8, positions, true);
  if (position_rows.empty() && length > positions.num_rows) {
    context.fail("{} positions; the table of positions has {} rows", length, positions.num_rows);
  }
  if (context.has_output(1)) {
    int32_t* to = context.output_data<int32_t>(1);
    std::fill_n(to, batch, 0);
    if (context.has_input(7)) {
      const std::vector<int64_t> mask = to_ints(context.input(7));
      if (static_cast<int64_t>(mask.size()) != count)
        context.fail("the mask has {} elements and needs {}", mask.size(), count);
      for (int64_t i = 0; i < count; ++i) to[i / length] += mask[static_cast<size_t>(i)] == 1 ? 1 : 0;
    }
  }
  if (count * hidden == 0) return;
  float* const y = context.output_data<float>(0);
  float* const sums = context.has_output(2) ? context.output_data<float>(2) : y;
  context.pool().parallel_for(count, std::max<int64_t>(1, (1 << 13) / hidden), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto at = static_cast<size_t>(i);
      const int64_t position = position_rows.empty() ? i % length : position_rows[at % position_rows.size()];
      const float *word = words.rows + word_rows[at] * hidden, *place = positions.rows + position * hidden;
      float* sum = sums + i * hidden;
      for (int64_t j = 0; j < hidden; ++j) sum[j] = word[j] + place[j];
      if (!segment_rows.empty()) {
        const float* segment = segments.rows + segment_rows[at] * hidden;
        for (int64_t j = 0; j < hidden; ++j) sum[j] += segment[j];
      }
      const double mean = mean_of(sum, hidden);
      const double factor = 1 / std::sqrt(variance_of(sum, hidden, mean) + epsilon);
      normalize_row(sum, hidden, static_cast<float>(mean), static_cast<float>(factor), gamma, beta, y + i * hidden);
    }
  });
}

// GroupNorm and SkipGroupNorm

void infer_contrib_group_norm(InferContext& context) {
  const Node& node = context.node();
  context.set_type(0, context.type(0));
  context.set_type(1, context.type(0));
  const int64_t groups = node.get_int("groups", 0), activation = node.get_int("activation", 0);
  if (groups < 1) context.fail("groups is {}; at least 1 is needed", groups);
  if (activation != 0 && activation != 1)
    context.fail("activation is {}; 0 (none) and 1 (SiLU) are allowed", activation);
  if (!context.has_rank(0)) return;
  const Dims& x = context.dims(0);
  if (x.size() < 2) context.fail("an input of shape {} has no channels", to_string(x));
  const Dim& channels = node.get_int("channels_last", 1) != 0 ? x.back() : x[1];
  if (channels.is_known() && channels.value() % groups != 0) {
    context.fail("{} channels do not divide into {} groups", channels.value(), groups);
  }
}

void run_contrib_group_norm(RunContext& context, bool has_skip) {
  const Node& node = context.node();
  const Tensor& x = context.input(0);
  if (x.type() != ElementType::kF32) context.fail_type(0);
  const bool channels_last = node.get_int("channels_last", 1) != 0, has_silu = node.get_int("activation", 0) == 1;
  const int64_t groups = node.get_int("groups", 1), batch = x.dim(0),
                channels = channels_last ? x.shape().back() : x.dim(1);
  const double epsilon = node.get_float("epsilon", 1e-5f);
  context.input(1), context.input(2);
  const float *gamma = read_floats(context, 1, channels), *beta = read_floats(context, 2, channels);
  float* const y = context.output_data<float>(0);
  if (x.count() == 0) return;
  const int64_t pixels = x.count() / (batch * channels), group_channels = channels / groups;
  // Elements of a channel are `step` apart, channels `channel_step`.
  const int64_t step = channels_last ? channels : 1, channel_step = channels_last ? 1 : pixels;
  const float* from = x.data<float>();
  if (has_skip) {
    const Tensor& skip = context.input(3);
    const bool is_whole = skip.count() == x.count(), is_flat = skip.count() == batch * channels;
    if (!is_whole && !is_flat)
      context.fail("a skip of shape {} does not fit {}", to_string(skip.shape()), to_string(x.shape()));
    const float* skipped = read_floats(context, 3, skip.count());
    const float* bias = read_floats(context, 4, channels);
    float* sums = context.has_output(1) ? context.output_data<float>(1) : y;
    for (int64_t i = 0; i < x.count(); ++i) {
      const int64_t channel = channels_last ? i % channels : i / pixels % channels;
      const float other = is_whole ? skipped[i] : skipped[i / (channels * pixels) * channels + channel];
      sums[i] = from[i] + other + (bias == nullptr ? 0.0f : bias[channel]);
    }
    from = sums;
  }
  context.pool().parallel_for(batch * groups, std::max<int64_t>(1, (1 << 13) / (pixels * group_channels)),
                              [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first_channel = i % groups * group_channels;
      const int64_t offset = i / groups * channels * pixels + first_channel * channel_step;
      auto for_elements = [&](auto&& f) {
        for (int64_t outer = 0; outer < (channels_last ? pixels : group_channels); ++outer) {
          for (int64_t inner = 0; inner < (channels_last ? group_channels : pixels); ++inner) {
            const int64_t c = channels_last ? inner : outer, p = channels_last ? outer : inner;
            f(offset + c * channel_step + p * step, first_channel + c);
          }
        }
      };
      const double count = static_cast<double>(pixels * group_channels);
      double sum = 0, squares = 0;
      for_elements([&](int64_t at, int64_t) { sum += from[at]; });
      const double mean = sum / count;
      for_elements([&](int64_t at, int64_t) { squares += (from[at] - mean) * (from[at] - mean); });
      const float factor = static_cast<float>(1 / std::sqrt(squares / count + epsilon)),
                  center = static_cast<float>(mean);
      for_elements([&](int64_t at, int64_t channel) {
        const float value = (from[at] - center) * factor * gamma[channel] + beta[channel];
        y[at] = has_silu ? value * fast_sigmoid(value) : value;
      });
    }
  });
}

void run_group_norm(RunContext& context) { run_contrib_group_norm(context, false); }
void run_skip_group_norm(RunContext& context) { run_contrib_group_norm(context, true); }

// Biases

void run_bias_add(RunContext& context) {
  const Tensor& x = context.input(0);
  if (x.type() != ElementType::kF32) context.fail_type(0);
  if (x.rank() == 0) context.fail("the input is a scalar");
  const int64_t channels = x.shape().back();
  context.input(1), context.input(2);
  const float *from = x.data<float>(), *bias = read_floats(context, 1, channels),
              *skip = read_floats(context, 2, x.count());
  float* y = context.output_data<float>(0);
  if (x.count() == 0) return;
  context.pool().parallel_for(x.count() / channels, std::max<int64_t>(1, (1 << 14) / channels),
                              [&](int64_t begin, int64_t end, int) {
                                for (int64_t r = begin; r < end; ++r) {
                                  for (int64_t i = 0; i < channels; ++i)
                                    y[r * channels + i] = from[r * channels + i] + bias[i] + skip[r * channels + i];
                                }
                              });
}

void infer_bias_split_gelu(InferContext& context) {
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  Dims dims = context.dims(0);
  if (dims.empty()) context.fail("the input is a scalar");
  if (dims.back().is_known() && dims.back().value() % 2 != 0)
    context.fail("{} values do not split into halves", dims.back().value());
  dims.back() = floor_divide(dims.back(), 2);
  context.set_output(0, context.element(0), std::move(dims));
}
// The left half times the Gelu of the right half, after the bias.
void run_bias_split_gelu(RunContext& context) {
  const Tensor& x = context.input(0);
  if (x.type() != ElementType::kF32) context.fail_type(0);
  const int64_t width = x.shape().back(), half = width / 2;
  context.input(1);
  const float *from = x.data<float>(), *bias = read_floats(context, 1, width);
  float* y = context.output_data<float>(0);
  if (x.count() == 0) return;
  context.pool().parallel_for(
      x.count() / width, std::max<int64_t>(1, (1 << 12) / width), [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          const float* row = from + r * width;
          for (int64_t i = 0; i < half; ++i) {
            const float right = row[half + i] + bias[half + i];
            y[r * half + i] = (row[i] + bias[i]) * (0.5f * right * (1.0f + fast_erf(right * 0.70710678f)));
          }
        }
      });
}

void infer_bias_softmax(InferContext& context) {
  context.set_type(0, context.type(0));
  if (!context.has_rank(0)) return;
  context.axis(context.node().get_int("axis", 1), context.rank(0));
  if (context.has_rank(1)) {
    const Dims joined = broadcast(context, context.dims(0), context.dims(1));
    bool fits = joined.size() == context.dims(0).size();
    for (size_t i = 0; fits && i < joined.size(); ++i) {
      const Dim& dim = context.dims(0)[i];
      fits = !dim.is_known() || !joined[i].is_known() || joined[i] == dim;
    }
    if (!fits)
      context.fail("a bias of shape {} does not broadcast to {}", to_string(context.dims(1)),
                   to_string(context.dims(0)));
  }
}
void run_bias_softmax(RunContext& context) {
  const Tensor &x = context.input(0), &bias = context.input(1);
  if (x.type() != ElementType::kF32) context.fail_type(0);
  if (bias.type() != ElementType::kF32) context.fail_type(1);
  const int axis = context.axis(context.node().get_int("axis", 1), x.rank());
  if (x.count() == 0) return;
  const int64_t count = x.shape().count(axis, x.rank()), rows = x.count() / count;
  std::array<int64_t, kMaxRank> strides{};
  const int shift = x.rank() - bias.rank();
  int64_t stride = 1;
  for (int d = x.rank() - 1; d >= shift; --d) {
    strides[static_cast<size_t>(d)] = bias.dim(d - shift) == 1 ? 0 : stride;
    stride *= bias.dim(d - shift);
  }
  const float *from = x.data<float>(), *added = bias.data<float>();
  float* y = context.output_data<float>(0);
  context.pool().parallel_for(rows, std::max<int64_t>(1, (1 << 12) / count), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t offset = 0, rest = r;
      for (int d = axis - 1; d >= 0; --d) {
        offset += rest % x.dim(d) * strides[static_cast<size_t>(d)];
        rest /= x.dim(d);
      }
      std::array<int64_t, kMaxRank> index{};
      float* row = y + r * count;
      float highest = -std::numeric_limits<float>::infinity();
      for (int64_t i = 0; i < count; ++i) {
        row[i] = from[r * count + i] + added[offset];
        highest = row[i] > highest ? row[i] : highest;
        for (int d = x.rank() - 1; d >= axis; --d) {
          const auto at = static_cast<size_t>(d);
          offset += strides[at];
          if (++index[at] < x.dim(d)) break;
          offset -= strides[at] * x.dim(d);
          index[at] = 0;
        }
      }
      for (int64_t i = 0; i < count; ++i) row[i] = fast_exp(row[i] - highest);
      const float factor = static_cast<float>(1 / sum_row(row, count, [](float v) { return v; }));
      for (int64_t i = 0; i < count; ++i) row[i] *= factor;
    }
  });
}

constexpr OpInfo kOps[] = {
    {"", "SimplifiedLayerNormalization", 1, 0, infer_rms_norm, run_rms_norm, OpInfo::kViaFloat},
    {kMicrosoft, "LayerNormalization", 1, 0, infer_layer_norm, run_layer_norm, OpInfo::kViaFloat},
    {kMicrosoft, "SimplifiedLayerNormalization", 1, 0, infer_rms_norm, run_rms_norm, OpInfo::kViaFloat},
    {kMicrosoft, "SkipLayerNormalization", 1, 0, infer_skip_norm, run_skip_layer_norm, OpInfo::kViaFloat},
    {kMicrosoft, "SkipSimplifiedLayerNormalization", 1, 0, infer_skip_norm, run_skip_rms_norm, OpInfo::kViaFloat},
    {kMicrosoft, "EmbedLayerNormalization", 1, 0, infer_embed_norm, run_embed_norm, OpInfo::kViaFloat},
    {kMicrosoft, "GroupNorm", 1, 0, infer_contrib_group_norm, run_group_norm, OpInfo::kViaFloat},
    {kMicrosoft, "SkipGroupNorm", 1, 0, infer_contrib_group_norm, run_skip_group_norm, OpInfo::kViaFloat},
    {kMicrosoft, "BiasAdd", 1, 0, infer_same, run_bias_add, OpInfo::kViaFloat},
    {kMicrosoft, "BiasSplitGelu", 1, 0, infer_bias_split_gelu, run_bias_split_gelu, OpInfo::kViaFloat},
    {kMicrosoft, "BiasSoftmax", 1, 0, infer_bias_softmax, run_bias_softmax, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> contrib_norm_ops() { return kOps; }

}  // namespace sluice::graph::ops
