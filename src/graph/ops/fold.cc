// Col2Im (ONNX operator specification, opset 18): the sum of overlapping blocks as an image of any number of
// dimensions, the opposite of what a convolution does to its input.
#include <algorithm>

#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

struct FoldAxis {
  int64_t image = 0, block = 0, dilation = 1, stride = 1, pad_begin = 0, pad_end = 0;
  int64_t positions = 0;  // of the block along this axis
};

// The axes, if image_shape and block_shape are known. Throws Error for what cannot be.
template <typename Context>
std::vector<FoldAxis> make_axes(const Context& context, const std::vector<int64_t>& image,
                                const std::vector<int64_t>& block) {
  const size_t num = image.size();
  const Node& node = context.node();
  auto get = [&](const char* name, size_t count, int64_t otherwise) {
    std::vector<int64_t> values = node.get_ints(name);
    if (values.empty()) values.assign(count, otherwise);
    if (values.size() != count) context.fail("{} has {} entries; {} are needed", name, values.size(), count);
    return values;
  };
  if (block.size() != num || num == 0) context.fail("image_shape has {} entries and block_shape {}", num, block.size());
  const std::vector<int64_t> dilations = get("dilations", num, 1), strides = get("strides", num, 1),
                             pads = get("pads", 2 * num, 0);
  std::vector<FoldAxis> axes;
  constexpr int64_t kMax = int64_t{1} << 31;
  for (size_t i = 0; i < num; ++i) {
    FoldAxis axis{image[i], block[i], dilations[i], strides[i], pads[i], pads[i + num]};
    const bool is_sound = axis.image >= 0 && axis.image < kMax && axis.block > 0 && axis.block < kMax &&
                          axis.dilation > 0 && axis.dilation < kMax && axis.stride > 0 && axis.stride < kMax &&
                          axis.pad_begin >= 0 && axis.pad_begin < kMax && axis.pad_end >= 0 && axis.pad_end < kMax;
    if (!is_sound) {
      context.fail("shapes, dilations and strides have to be above 0, pads 0 or more, all of them below 2^31");
    }
    const __int128 room = static_cast<__int128>(axis.image) + axis.pad_begin + axis.pad_end -
                          static_cast<__int128>(axis.dilation) * (axis.block - 1) - 1;
    axis.positions = room < 0 ? 0 : static_cast<int64_t>(room / axis.stride) + 1;
    axes.push_back(axis);
  }
  return axes;
}

void infer_col2im(InferContext& context) {
  if (context.has_rank(0) && context.rank(0) != 3) {
    context.fail("takes a tensor of 3 dimensions, not of {}", context.rank(0));
  }
  const auto image = find_shape_ints(context, 1), block = find_shape_ints(context, 2);
  if (!image || !block) return context.set_output(0, context.element(0));
  Dims dims{Dim::unknown(), Dim::unknown()};
  if (context.has_rank(0)) dims = {context.dims(0)[0], floor_divide(context.dims(0)[1], product(*block))};
  dims.insert(dims.end(), image->begin(), image->end());
  if (are_known(*image) && are_known(*block)) {
    const std::vector<FoldAxis> axes = make_axes(context, *context.known_ints(1), *context.known_ints(2));
    Dim blocks = 1, positions = 1;
    for (const FoldAxis& axis : axes) {
      blocks *= axis.block;
      positions *= axis.positions;
    }
    if (context.has_rank(0)) {
      const Dim &channels = context.dims(0)[1], &length = context.dims(0)[2];
      if (channels.is_known() && (!blocks.is_known() || channels.value() % blocks.value() != 0)) {
        context.fail("{} channels are no multiple of a block of {}", channels.value(), blocks.to_string());
      }
      if (length.is_known() && length != positions) {
        context.fail("the input has {} blocks; {} fit into the image", length.value(), positions.to_string());
      }
    }
  }
  context.set_output(0, context.element(0), std::move(dims));
}

// Adds the blocks of one channel, [block..., position...], to its image.
template <typename T>
void fold(const T* from, T* to, const std::vector<FoldAxis>& axes) {
  const size_t num = axes.size();
  std::vector<int64_t> tap(num), place(num);
  const FoldAxis& last = axes.back();
  int64_t rows = 1, taps = 1;
  for (size_t d = 0; d + 1 < num; ++d) rows *= axes[d].positions;
  for (const FoldAxis& axis : axes) taps *= axis.block;
  auto advance = [&](std::vector<int64_t>& index, size_t count, auto&& limit) {
    for (size_t d = count; d-- > 0;) {
      if (++index[d] < limit(axes[d])) return;
      index[d] = 0;
    }
  };
  for (int64_t t = 0; t < taps; ++t) {
    std::fill(place.begin(), place.end(), 0);
    for (int64_t r = 0; r < rows; ++r, from += last.positions) {
      int64_t offset = 0;
      bool is_inside = true;
      for (size_t d = 0; d + 1 < num; ++d) {
        const int64_t at = place[d] * axes[d].stride + tap[d] * axes[d].dilation - axes[d].pad_begin;
        is_inside = at >= 0 && at < axes[d].image;
        if (!is_inside) break;
        offset = offset * axes[d].image + at;
      }
      if (is_inside) {
        const int64_t shift = tap[num - 1] * last.dilation - last.pad_begin;
        T* row = to + offset * last.image;
        for (int64_t p = 0; p < last.positions; ++p) {
          const int64_t at = p * last.stride + shift;
          if (at >= 0 && at < last.image) row[at] = static_cast<T>(row[at] + from[p]);
        }
      }
      advance(place, num - 1, [](const FoldAxis& axis) { return axis.positions; });
    }
    advance(tap, num, [](const FoldAxis& axis) { return axis.block; });
  }
}

void run_col2im(RunContext& context) {
  const Tensor& input = context.input(0);
  Tensor& output = make_output(context, 0);
  const std::vector<FoldAxis> axes = make_axes(context, to_ints(context.input(1)), to_ints(context.input(2)));
  const int64_t planes = output.dim(0) * output.dim(1), image = output.shape().count(2, output.rank());
  auto run = [&](auto zero) {
    using T = decltype(zero);
    std::fill_n(output.data<T>(), output.count(), T{0});
    if (input.count() == 0 || image == 0) return;
    const int64_t column = input.count() / planes;
    context.pool().parallel_for(planes, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) fold(input.data<T>() + i * column, output.data<T>() + i * image, axes);
    });
  };
  if (!dispatch<float, double, int64_t, int32_t, int8_t, uint8_t>(input.type(), run)) context.fail_type(0);
}

constexpr OpInfo kOps[] = {
    {"", "Col2Im", 18, 0, infer_col2im, run_col2im, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> fold_ops() { return kOps; }

}  // namespace sluice::graph::ops
