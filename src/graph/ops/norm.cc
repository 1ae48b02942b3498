// Normalisations of the ONNX operator specification: BatchNormalization, InstanceNormalization, GroupNormalization,
// LayerNormalization, RMSNormalization, LpNormalization, MeanVarianceNormalization and LRN.
//
// BatchNormalization takes the statistics it is given, unless it trains: with training_mode as of opset 14, and before
// that if somebody reads its further outputs, which are there in training only (is_test of the oldest opsets says the
// same). Without `spatial` (before opset 9) each feature of an image is a channel of its own. GroupNormalization's
// scale and bias belong to groups in opset 18 and to channels as of 21. A vector of zeros stays zeros under
// LpNormalization. LayerNormalization is taken in every opset: ONNX Runtime exported it before the specification had
// it.
#include <array>
#include <cmath>
#include <vector>

#include "graph/ops/layer_norm.h"
#include "graph/ops/norm_math.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

// The parameters of channels, in double.
std::vector<double> read_parameter(const RunContext& context, int input, int64_t count) {
  const Tensor& tensor = context.input(input);
  if (tensor.count() != count) context.fail("input {} has {} elements and needs {}", input + 1, tensor.count(), count);
  std::vector<double> values;
  if (!dispatch<float, double>(tensor.type(), [&](auto zero) {
        const auto elements = tensor.values<decltype(zero)>();
        values.assign(elements.begin(), elements.end());
      })) {
    context.fail_type(input);
  }
  return values;
}

// BatchNormalization

bool is_spatial(const Node& node) { return node.opset >= 9 || node.get_int("spatial", 1) != 0; }

template <typename Context>
bool is_training(const Context& context) {
  const Node& node = context.node();
  if (node.opset >= 14) return node.get_int("training_mode", 0) != 0;
  bool has_more = false;
  for (int i = 1; i < context.num_outputs(); ++i) has_more |= context.has_output(i);
  return has_more && node.get_int("is_test", 0) == 0;
}

void infer_batch_norm(InferContext& context) {
  context.set_type(0, context.type(0));
  if (context.has_rank(0) && context.rank(0) < 1) context.fail("the input is a scalar");
  for (int i = 1; i <= 4; ++i) {
    context.type(i);
    if (context.has_rank(0) && context.has_rank(i) && is_spatial(context.node())) {
      const Dim channels = context.rank(0) < 2 ? Dim(1) : context.dims(0)[1];
      const Dims& dims = context.dims(i);
      if (dims.size() != 1 || (dims[0].is_known() && channels.is_known() && !(dims[0] == channels))) {
        context.fail("input {} has shape {}; one value for each of {} channels is needed", i + 1, to_string(dims),
                     channels.to_string());
      }
    }
  }
  const bool trains = is_training(context);
  for (int i = 1; i < context.num_outputs(); ++i) {
    if (!context.has_output(i)) continue;
    if (!trains) context.fail("output {} is there in training mode only", i + 1);
    context.set_type(i, context.type(i % 2 == 1 ? 3 : 4));
  }
}

template <typename T>
void run_batch_norm_typed(RunContext& context) {
  const Node& node = context.node();
  const Tensor& x = context.input(0);
  const int64_t batch = x.dim(0);
  int64_t channels = x.rank() < 2 ? 1 : x.dim(1), pixels = x.rank() < 2 ? 1 : x.shape().count(2, x.rank());
  if (!is_spatial(node)) {
    channels *= pixels;
    pixels = 1;
  }
  const std::vector<double> scale = read_parameter(context, 1, channels), bias = read_parameter(context, 2, channels);
  std::vector<double> mean = read_parameter(context, 3, channels), variance = read_parameter(context, 4, channels);
  const double epsilon = node.get_float("epsilon", 1e-5f);
  const T* from = x.data<T>();
  if (is_training(context)) {
    const double momentum = node.get_float("momentum", 0.9f);
    std::vector<double> batch_mean(mean.size(), 0), batch_variance(mean.size(), 0);
    context.pool().parallel_for(channels, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, batch * pixels)),
                                [&](int64_t begin, int64_t end, int) {
      const double count = static_cast<double>(batch * pixels);
      for (int64_t c = begin; c < end && count > 0; ++c) {
        double sum = 0, squares = 0;
        for (int64_t n = 0; n < batch; ++n)
          sum += sum_row(from + (n * channels + c) * pixels, pixels, [](T v) { return v; });
        const double center = sum / count;
        for (int64_t n = 0; n < batch; ++n) {
          squares += sum_row(from + (n * channels + c) * pixels, pixels,
                             [m = static_cast<T>(center)](T v) { return (v - m) * (v - m); });
        }
        batch_mean[static_cast<size_t>(c)] = center;
        batch_variance[static_cast<size_t>(c)] = squares / count;
      }
    });
    for (int i = 1; i < context.num_outputs(); ++i) {
      if (!context.has_output(i)) continue;
      const std::vector<double>&running = i % 2 == 1 ? mean : variance, &now = i % 2 == 1 ? batch_mean : batch_variance;
      Tensor& to = context.output(i);
      if (!dispatch<float, double>(to.type(), [&](auto zero) {
            for (size_t c = 0; c < now.size(); ++c) {
              const double value = i >= 3 ? now[c] : running[c] * momentum + now[c] * (1 - momentum);
              to.data<decltype(zero)>()[c] = static_cast<decltype(zero)>(value);
            }
          })) {
        context.fail_type(i % 2 == 1 ? 3 : 4);
      }
    }
    mean = batch_mean, variance = batch_variance;
  }
  T* const y = context.output_data<T>(0);
  std::vector<T> factors(mean.size()), means(mean.size()), biases(mean.size());
  for (size_t c = 0; c < mean.size(); ++c) {
    factors[c] = static_cast<T>(scale[c] / std::sqrt(variance[c] + epsilon));
    means[c] = static_cast<T>(mean[c]);
    biases[c] = static_cast<T>(bias[c]);
  }
  // A row is a plane, or with single pixels all channels of an image.
  const int64_t rows = pixels == 1 ? batch : batch * channels, length = pixels == 1 ? channels : pixels;
  context.pool().parallel_for(rows, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, length)),
                              [&](int64_t begin, int64_t end, int) {
                                for (int64_t r = begin; r < end; ++r) {
                                  const T* in = from + r * length;
                                  T* out = y + r * length;
                                  if (pixels == 1) {
                                    for (int64_t i = 0; i < length; ++i) {
                                      const auto c = static_cast<size_t>(i);
                                      out[i] = (in[i] - means[c]) * factors[c] + biases[c];
                                    }
                                  } else {
                                    const auto c = static_cast<size_t>(r % channels);
                                    const T m = means[c], factor = factors[c], b = biases[c];
                                    for (int64_t i = 0; i < length; ++i) out[i] = (in[i] - m) * factor + b;
                                  }
                                }
                              });
}

void run_batch_norm(RunContext& context) {
  if (!dispatch<float, double>(context.input(0).type(),
                               [&](auto zero) { run_batch_norm_typed<decltype(zero)>(context); })) {
    context.fail_type(0);
  }
}

// Instances and groups of channels

void check_channels(const InferContext& context, int input, const Dim& count) {
  if (!context.has_rank(input)) return;
  const Dims& dims = context.dims(input);
  if (dims.size() != 1 || (dims[0].is_known() && count.is_known() && !(dims[0] == count))) {
    context.fail("input {} has shape {}; {} values are needed", input + 1, to_string(dims), count.to_string());
  }
}

void infer_instance_norm(InferContext& context) {
  infer_same(context);
  if (!context.has_rank(0)) return;
  if (context.rank(0) < 3)
    context.fail("an input of shape {}; [batch, channels, spatial...] is needed", to_string(context.dims(0)));
  for (const int i : {1, 2}) check_channels(context, i, context.dims(0)[1]);
}

void infer_group_norm(InferContext& context) {
  infer_same(context);
  const int64_t groups = context.node().get_int("num_groups", 0);
  if (groups < 1) context.fail("num_groups is {}; at least 1 is needed", groups);
  if (!context.has_rank(0)) return;
  if (context.rank(0) < 2)
    context.fail("an input of shape {}; [batch, channels, spatial...] is needed", to_string(context.dims(0)));
  const Dim& channels = context.dims(0)[1];
  if (channels.is_known() && channels.value() % groups != 0) {
    context.fail("{} channels do not divide into {} groups", channels.value(), groups);
  }
  for (const int i : {1, 2}) check_channels(context, i, context.opset() < 21 ? Dim(groups) : channels);
}

// `groups` of the channels of an image are normalised together; `num_parameters` is the channels or the groups.
template <typename T>
void normalize_groups(RunContext& context, int64_t groups, int64_t num_parameters) {
  const Tensor& x = context.input(0);
  const int64_t batch = x.dim(0), channels = x.dim(1), pixels = x.shape().count(2, x.rank());
  const std::vector<double> scale = read_parameter(context, 1, num_parameters),
                            bias = read_parameter(context, 2, num_parameters);
  const double epsilon = context.node().get_float("epsilon", 1e-5f);
  T* const y = context.output_data<T>(0);
  if (x.count() == 0) return;
  const int64_t group_channels = channels / groups, length = group_channels * pixels;
  context.pool().parallel_for(
      batch * groups, std::max<int64_t>(1, (1 << 14) / length), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const T* from = x.data<T>() + i * length;
          const double mean = mean_of(from, length);
          const double factor = 1 / std::sqrt(variance_of(from, length, mean) + epsilon);
          for (int64_t c = 0; c < group_channels; ++c) {
            const int64_t group = i % groups;
            const auto at = static_cast<size_t>(num_parameters == groups ? group : group * group_channels + c);
            const T m = static_cast<T>(mean), f = static_cast<T>(factor * scale[at]), b = static_cast<T>(bias[at]);
            const T* in = from + c * pixels;
            T* out = y + i * length + c * pixels;
            for (int64_t p = 0; p < pixels; ++p) out[p] = (in[p] - m) * f + b;
          }
        }
      });
}

void run_instance_norm(RunContext& context) {
  const int64_t channels = context.input(0).dim(1);
  if (!dispatch<float, double>(context.input(0).type(), [&](auto zero) {
        normalize_groups<decltype(zero)>(context, channels, channels);
      })) {
    context.fail_type(0);
  }
}

void run_group_norm(RunContext& context) {
  const int64_t groups = context.node().get_int("num_groups", 1);
  const int64_t parameters = context.opset() < 21 ? groups : context.input(0).dim(1);
  if (!dispatch<float, double>(context.input(0).type(), [&](auto zero) {
        normalize_groups<decltype(zero)>(context, groups, parameters);
      })) {
    context.fail_type(0);
  }
}

// LpNormalization

void infer_lp_norm(InferContext& context) {
  infer_same(context);
  const int64_t p = context.node().get_int("p", 2);
  if (p != 1 && p != 2) context.fail("p is {}; 1 and 2 are allowed", p);
  if (context.has_rank(0)) context.axis(context.node().get_int("axis", -1), context.rank(0));
}

void run_lp_norm(RunContext& context) {
  const Tensor& x = context.input(0);
  const int axis = context.axis(context.node().get_int("axis", -1), x.rank());
  const bool is_l1 = context.node().get_int("p", 2) == 1;
  if (x.count() == 0) return;
  const int64_t count = x.dim(axis), inner = x.shape().count(axis + 1, x.rank()), outer = x.count() / (count * inner);
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        const T* from = x.data<T>();
        T* to = context.output_data<T>(0);
        context.pool().parallel_for(
            outer * inner, std::max<int64_t>(1, (1 << 14) / count), [&](int64_t begin, int64_t end, int) {
              for (int64_t i = begin; i < end; ++i) {
                const int64_t offset = i / inner * count * inner + i % inner;
                double sum = 0;
                for (int64_t j = 0; j < count; ++j) {
                  const double value = from[offset + j * inner];
                  sum += is_l1 ? std::abs(value) : value * value;
                }
                const double norm = is_l1 ? sum : std::sqrt(sum);
                for (int64_t j = 0; j < count; ++j) {
                  to[offset + j * inner] =
                      norm == 0 ? T{} : static_cast<T>(static_cast<double>(from[offset + j * inner]) / norm);
                }
              }
            });
      })) {
    context.fail_type(0);
  }
}

// MeanVarianceNormalization

// For each axis whether it is normalised.
template <typename Context>
std::array<bool, kMaxRank> read_mvn_axes(const Context& context, int rank) {
  const Node& node = context.node();
  std::array<bool, kMaxRank> reduced{};
  if (!node.has("axes") && rank != 4) {  // the default names the axes of an image: all but the channels
    for (int d = 0; d < rank; ++d) reduced[static_cast<size_t>(d)] = d != 1;
    return reduced;
  }
  for (const int64_t axis : node.get_ints("axes", {0, 2, 3}))
    reduced[static_cast<size_t>(context.axis(axis, rank))] = true;
  return reduced;
}

void infer_mvn(InferContext& context) {
  infer_same(context);
  if (context.has_rank(0) && context.rank(0) <= kMaxRank) read_mvn_axes(context, context.rank(0));
}

void run_mvn(RunContext& context) {
  const Tensor& x = context.input(0);
  const std::array<bool, kMaxRank> reduced = read_mvn_axes(context, x.rank());
  // Statistics of each position of the axes that stay.
  const Shape& shape = x.shape();
  std::array<int64_t, kMaxRank> strides{};
  int64_t kept = 1;
  for (int d = x.rank() - 1; d >= 0; --d) {
    if (reduced[static_cast<size_t>(d)]) continue;
    strides[static_cast<size_t>(d)] = kept;
    kept *= shape[d];
  }
  if (x.count() == 0) return;
  const double count = static_cast<double>(x.count()) / static_cast<double>(kept);
  const bool is_scalar = x.rank() == 0;
  const int last = x.rank() - 1;
  const int64_t length = is_scalar ? 1 : shape[last], step = is_scalar ? 0 : strides[static_cast<size_t>(last)];
  // Calls body(first element, statistics of the first element) for each row.
  auto for_rows = [&](auto&& body) {
    std::array<int64_t, kMaxRank> index{};
    int64_t at = 0;
    for (int64_t begin = 0; begin < x.count(); begin += length) {
      body(begin, at);
      for (int d = last - 1; d >= 0; --d) {
        const auto i = static_cast<size_t>(d);
        at += strides[i];
        if (++index[i] < shape[d]) break;
        at -= strides[i] * shape[d];
        index[i] = 0;
      }
    }
  };
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        const T* from = x.data<T>();
        T* to = context.output_data<T>(0);
        std::vector<double> means(static_cast<size_t>(kept), 0), deviations(static_cast<size_t>(kept), 0);
        for_rows([&](int64_t begin, int64_t at) {
          for (int64_t i = 0; i < length; ++i) means[static_cast<size_t>(at + i * step)] += from[begin + i];
        });
        for (double& mean : means) mean /= count;
        for_rows([&](int64_t begin, int64_t at) {
          for (int64_t i = 0; i < length; ++i) {
            const double distance = from[begin + i] - means[static_cast<size_t>(at + i * step)];
            deviations[static_cast<size_t>(at + i * step)] += distance * distance;
          }
        });
        for (double& deviation : deviations) deviation = std::sqrt(deviation / count) + 1e-9;
        for_rows([&](int64_t begin, int64_t at) {
          for (int64_t i = 0; i < length; ++i) {
            const auto s = static_cast<size_t>(at + i * step);
            to[begin + i] = static_cast<T>((from[begin + i] - means[s]) / deviations[s]);
          }
        });
      })) {
    context.fail_type(0);
  }
}

// LRN

void infer_lrn(InferContext& context) {
  infer_same(context);
  if (context.node().get_int("size", 0) < 1)
    context.fail("size is {}; at least 1 is needed", context.node().get_int("size", 0));
  if (context.has_rank(0) && context.rank(0) < 2)
    context.fail("an input of shape {} has no channels", to_string(context.dims(0)));
}

void run_lrn(RunContext& context) {
  const Node& node = context.node();
  const Tensor& x = context.input(0);
  const int64_t size = node.get_int("size", 1);
  const double alpha = node.get_float("alpha", 1e-4f) / static_cast<double>(size), beta = node.get_float("beta", 0.75f);
  const double bias = node.get_float("bias", 1);
  if (x.count() == 0) return;
  const int64_t channels = x.dim(1), pixels = x.shape().count(2, x.rank());
  // Channels below and above that count; no more than there are.
  const int64_t below = std::min((size - 1) / 2, channels), above = std::min(size - 1 - (size - 1) / 2, channels);
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        T* to = context.output_data<T>(0);
        Tensor sums = context.make(ElementType::kF64, Shape{context.pool().num_threads(), pixels});
        double* const memory = sums.data<double>();
        const int64_t grain = std::max<int64_t>(1, (1 << 12) / (pixels * std::min(size, channels)));
        context.pool().parallel_for(x.dim(0) * channels, grain, [&](int64_t begin, int64_t end, int worker) {
          double* squares = memory + worker * pixels;  // of the channels in reach
          for (int64_t i = begin; i < end; ++i) {
            const int64_t c = i % channels;
            const T* image = x.data<T>() + (i - c) * pixels;
            std::fill_n(squares, pixels, 0.0);
            for (int64_t k = std::max<int64_t>(0, c - below); k <= std::min(channels - 1, c + above); ++k) {
              const T* from = image + k * pixels;
              for (int64_t p = 0; p < pixels; ++p)
                squares[p] += static_cast<double>(from[p]) * static_cast<double>(from[p]);
            }
            const T* from = x.data<T>() + i * pixels;
            T* out = to + i * pixels;
            for (int64_t p = 0; p < pixels; ++p)
              out[p] = static_cast<T>(from[p] * std::pow(bias + alpha * squares[p], -beta));
          }
        });
      })) {
    context.fail_type(0);
  }
}

constexpr OpInfo kOps[] = {
    {"", "BatchNormalization", 1, 0, infer_batch_norm, run_batch_norm, OpInfo::kViaFloat},
    {"", "InstanceNormalization", 1, 0, infer_instance_norm, run_instance_norm, OpInfo::kViaFloat},
    {"", "GroupNormalization", 18, 0, infer_group_norm, run_group_norm, OpInfo::kViaFloat},
    {"", "LayerNormalization", 1, 0, infer_layer_norm, run_layer_norm, OpInfo::kViaFloat},
    {"", "RMSNormalization", 23, 0, infer_rms_norm, run_rms_norm, OpInfo::kViaFloat},
    {"", "LpNormalization", 1, 0, infer_lp_norm, run_lp_norm, OpInfo::kViaFloat},
    {"", "MeanVarianceNormalization", 9, 0, infer_mvn, run_mvn, OpInfo::kViaFloat},
    {"", "LRN", 1, 0, infer_lrn, run_lrn, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> norm_ops() { return kOps; }

}  // namespace sluice::graph::ops
