// DeformConv of the ONNX operator specification: a convolution whose windows' positions are moved by offsets, which
// makes them fall between pixels, where values are interpolated linearly along each axis; outside the image they are 0.
// As in conv_core.h the columns exist only as packed panels; each value of them is sampled when its panel is packed.
#include <cmath>

#include "graph/ops/conv_core.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

void infer_deform_conv(InferContext& context) {
  const Node& node = context.node();
  const int64_t offset_groups = node.get_int("offset_group", 1);
  if (offset_groups < 1) context.fail("offset_group is {}; at least 1 is needed", offset_groups);
  std::optional<Dims> dims = infer_conv_dims(context, 0, 1, 3, false);
  if (!dims) return context.set_output(0, context.element(0));
  if (context.has_rank(0)) {
    const Dim& channels = context.dims(0)[1];
    if (channels.is_known() && channels.value() % offset_groups != 0) {
      context.fail("{} channels do not divide into {} offset groups", channels.value(), offset_groups);
    }
  }
  if (context.has_rank(1)) {
    const Dims& w = context.dims(1);
    const Dim positions = product(w, 2) * Dim(offset_groups);
    for (const int i : {2, 4}) {
      if (!context.has_rank(i)) continue;
      Dims needed = *dims;
      needed[1] = i == 2 ? positions * Dim(static_cast<int64_t>(w.size()) - 2) : positions;
      const Dims& has = context.dims(i);
      bool fits = has.size() == needed.size();
      for (size_t d = 0; fits && d < has.size(); ++d)
        fits = !has[d].is_known() || !needed[d].is_known() || has[d] == needed[d];
      if (!fits) context.fail("input {} has shape {}; {} is needed", i + 1, to_string(has), to_string(needed));
    }
  }
  context.set_output(0, context.element(0), std::move(*dims));
}

// The columns of one group of one image.
template <typename T>
struct DeformedColumns {
  const ConvShape* shape;
  const T* offsets;  // [offset groups, kernel_size, axes, out_pixels]
  const T* mask;     // [offset groups, kernel_size, out_pixels]; null: ones
  int64_t first_channel, channels_per_offset;
};

template <typename T>
T sample(const ConvShape& shape, const T* plane, const T* at) {
  const size_t rank = shape.axes.size();
  int64_t low[kMaxRank];
  T fraction[kMaxRank];
  for (size_t d = 0; d < rank; ++d) {
    // Also false for NaN.
    if (!(at[d] > -1 && at[d] < static_cast<T>(shape.axes[d].in))) return 0;
    const T floor = std::floor(at[d]);
    low[d] = static_cast<int64_t>(floor);
    fraction[d] = at[d] - floor;
  }
  T sum = 0;
  for (size_t corner = 0; corner < (size_t{1} << rank); ++corner) {
    T weight = 1;
    int64_t offset = 0;
    bool is_inside = true;
    for (size_t d = 0; d < rank; ++d) {
      const bool is_high = (corner >> d & 1) != 0;
      const int64_t position = low[d] + (is_high ? 1 : 0);
      is_inside &= position >= 0 && position < shape.axes[d].in;
      weight *= is_high ? fraction[d] : 1 - fraction[d];
      offset = offset * shape.axes[d].in + position;
    }
    if (is_inside && weight != 0) sum += weight * plane[offset];
  }
  return sum;
}

template <typename T>
void pack_deformed(const Operand<T>& from, int64_t first, int64_t count, int64_t width, int64_t begin, int64_t depth,
                   T* to) {
  const auto& columns = *static_cast<const DeformedColumns<T>*>(from.context);
  const ConvShape& shape = *columns.shape;
  const auto* image = static_cast<const T*>(from.data);
  const size_t rank = shape.axes.size();
  if (count < width) std::fill_n(to, width * depth, T{});
  for (int64_t p = begin; p < begin + depth; ++p, to += width) {
    const int64_t channel = p / shape.kernel_size, position = p % shape.kernel_size;
    const int64_t group_position =
        (columns.first_channel + channel) / columns.channels_per_offset * shape.kernel_size + position;
    int64_t shift[kMaxRank];  // of this kernel position
    for (size_t d = rank, rest = static_cast<size_t>(position); d-- > 0;) {
      shift[d] = static_cast<int64_t>(rest) % shape.axes[d].kernel * shape.axes[d].dilation;
      rest /= static_cast<size_t>(shape.axes[d].kernel);
    }
    for (int64_t i = 0; i < count; ++i) {
      T at[kMaxRank];
      int64_t rest = first + i;
      for (size_t d = rank; d-- > 0;) {
        const T moved =
            columns.offsets[(group_position * static_cast<int64_t>(rank) + static_cast<int64_t>(d)) * shape.out_pixels +
                            first + i];
        at[d] = static_cast<T>(shape.axes[d].begin_of(rest % shape.axes[d].out) + shift[d]) + moved;
        rest /= shape.axes[d].out;
      }
      const T value = sample(shape, image + channel * shape.in_pixels, at);
      to[i] = columns.mask == nullptr ? value : value * columns.mask[group_position * shape.out_pixels + first + i];
    }
  }
}

template <typename T>
void run_typed(RunContext& context) {
  const Tensor &x = context.input(0), &w = context.input(1);
  const ConvShape shape = read_conv(context.node(), x.shape(), w.shape());
  Tensor& output = make_output(context, 0);
  T* y = output.data<T>();
  if (output.count() == 0) return;
  const int64_t outputs = shape.group_outputs(), depth = shape.group_channels() * shape.kernel_size;
  const int64_t offset_groups = context.node().get_int("offset_group", 1);
  const int64_t positions = offset_groups * shape.kernel_size * shape.out_pixels;
  const T* bias = context.has_input(3) ? context.data<T>(3) : nullptr;
  for (int64_t i = 0; i < shape.batch * shape.out_channels; ++i) {
    std::fill_n(y + i * shape.out_pixels, shape.out_pixels, bias == nullptr ? T{} : bias[i % shape.out_channels]);
  }
  if (shape.channels == 0) return;
  std::vector<DeformedColumns<T>> columns;
  for (int64_t i = 0; i < shape.batch * shape.groups; ++i) {
    const int64_t n = i / shape.groups;
    columns.push_back({.shape = &shape,
                       .offsets = context.data<T>(2) + n * positions * static_cast<int64_t>(shape.axes.size()),
                       .mask = context.has_input(4) ? context.data<T>(4) + n * positions : nullptr,
                       .first_channel = i % shape.groups * shape.group_channels(),
                       .channels_per_offset = shape.channels / offset_groups});
  }
  multiply_batch<T>(context.pool(), shape.batch * shape.groups, outputs, shape.out_pixels, depth, [&](int64_t i) {
    return Product<T>{.m = outputs,
                      .n = shape.out_pixels,
                      .k = depth,
                      .a = strided<T>(w.data<T>() + i % shape.groups * outputs * depth, depth, 1),
                      .b = {.pack = pack_deformed<T>,
                            .data = x.data<T>() + i * shape.group_channels() * shape.in_pixels,
                            .context = &columns[static_cast<size_t>(i)]},
                      .c = y + i * outputs * shape.out_pixels,
                      .c_stride = shape.out_pixels,
                      .adds = true};
  });
}

void run_deform_conv(RunContext& context) {
  for (const int i : {1, 2, 3, 4}) {
    if (context.has_input(i) && context.input(i).type() != context.input(0).type()) context.fail_type(i);
  }
  if (!dispatch<float, double>(context.input(0).type(), [&](auto zero) { run_typed<decltype(zero)>(context); })) {
    context.fail_type(0);
  }
}

constexpr OpInfo kOps[] = {
    {"", "DeformConv", 19, 0, infer_deform_conv, run_deform_conv, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> deform_conv_ops() { return kOps; }

}  // namespace sluice::graph::ops
