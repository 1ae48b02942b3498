// The operators of object detectors that work on boxes: RoiAlign, MaxRoiPool, NonMaxSuppression (ONNX operator
// specification: RoiAlign 10 to 22, MaxRoiPool 1 to 22, NonMaxSuppression 10 and 11). RoiAlign's max is, as the
// specification's reference has it, of the four weighted neighbours and not of the interpolated values. Its sampling
// points outside the map count as 0; they are never visited, so that a box of any size costs no more than the map.
// NonMaxSuppression keeps scores above the threshold, takes boxes by score and then by index, and drops those whose
// overlap with a kept one is above the threshold.
#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

constexpr int64_t kMaxSamples = 1024;

void check_rank(const InferContext& context, int i, int rank) {
  if (context.has_rank(i) && context.rank(i) != rank) {
    context.fail("input {} has to have {} dimensions, not {}", i + 1, rank, context.rank(i));
  }
}

void check_dim(const InferContext& context, int i, size_t d, int64_t size) {
  if (context.has_rank(i) && context.dims(i)[d].is_known() && context.dims(i)[d].value() != size) {
    context.fail("dimension {} of input {} has to be {}, not {}", d, i + 1, size, context.dims(i)[d].value());
  }
}

Dim dim_of(const InferContext& context, int i, size_t d) {
  return context.has_rank(i) ? context.dims(i)[d] : Dim::unknown();
}

void infer_roi_align(InferContext& context) {
  const std::string mode = context.node().get_string("mode", "avg");
  if (mode != "avg" && mode != "max") context.fail("mode is '{}'; avg and max are known", mode);
  const std::string coordinates = context.node().get_string("coordinate_transformation_mode", "half_pixel");
  if (coordinates != "half_pixel" && coordinates != "output_half_pixel") {
    context.fail("coordinate_transformation_mode is '{}'; half_pixel and output_half_pixel are known", coordinates);
  }
  const int64_t height = context.node().get_int("output_height", 1), width = context.node().get_int("output_width", 1);
  if (height < 1 || width < 1) context.fail("the output is {}x{}; it has to have a pixel", height, width);
  const int64_t samples = context.node().get_int("sampling_ratio", 0);
  if (samples < 0 || samples > kMaxSamples) {
    context.fail("sampling_ratio is {}; 0 to {} are supported", samples, kMaxSamples);
  }
  check_rank(context, 0, 4);
  check_rank(context, 1, 2);
  check_rank(context, 2, 1);
  check_dim(context, 1, 1, 4);
  const Dim num = context.has_rank(1) ? context.dims(1)[0] : dim_of(context, 2, 0);
  if (num.is_known()) check_dim(context, 2, 0, num.value());
  context.set_output(0, context.element(0), {num, dim_of(context, 0, 1), height, width});
}

// A sampling point along one axis: two neighbours and the weight of the second.
struct Sample {
  int64_t low = 0, high = 0;
  double weight = 0;
};

struct Bin {
  std::vector<Sample> samples;  // those inside the map
  double num = 0;               // all of them
};

Bin make_bin(double start, double size, int64_t index, int64_t samples, int64_t length) {
  Bin bin;
  double num = samples > 0 ? static_cast<double>(samples) : std::ceil(size);
  if (!(num > 0) || !std::isfinite(start) || !std::isfinite(size)) return bin;
  bin.num = num;
  const double step = size / num, first = start + static_cast<double>(index) * size + 0.5 * step;
  int64_t begin = 0, end = kMaxSamples;
  if (num > static_cast<double>(kMaxSamples)) {  // and so are the points half a pixel to a pixel apart
    begin = static_cast<int64_t>(std::clamp((-1.0 - first) / step - 1, 0.0, 1e15));
    end = static_cast<int64_t>(std::clamp((static_cast<double>(length) - first) / step + 2, 0.0, 1e15));
  }
  end = static_cast<int64_t>(std::min(static_cast<double>(end), num));
  for (int64_t i = begin; i < end; ++i) {
    double x = first + static_cast<double>(i) * step;
    if (!(x >= -1) || x > static_cast<double>(length)) continue;
    x = std::max(x, 0.0);
    Sample sample;
    sample.low = std::min(static_cast<int64_t>(x), length - 1);
    sample.high = std::min(sample.low + 1, length - 1);
    sample.weight = sample.low == length - 1 ? 0 : x - static_cast<double>(sample.low);
    bin.samples.push_back(sample);
  }
  return bin;
}

template <typename T>
double pool_bin(const T* map, int64_t width, const Bin& rows, const Bin& columns, bool is_max) {
  double sum = 0, largest = -std::numeric_limits<double>::infinity();
  for (const Sample& y : rows.samples) {
    for (const Sample& x : columns.samples) {
      const double a = (1 - y.weight) * (1 - x.weight) * static_cast<double>(map[y.low * width + x.low]);
      const double b = (1 - y.weight) * x.weight * static_cast<double>(map[y.low * width + x.high]);
      const double c = y.weight * (1 - x.weight) * static_cast<double>(map[y.high * width + x.low]);
      const double d = y.weight * x.weight * static_cast<double>(map[y.high * width + x.high]);
      sum += a + b + c + d;
      if (is_max) largest = std::max({largest, a, b, c, d});
    }
  }
  if (!is_max) return sum / std::max(1.0, rows.num * columns.num);
  const double seen = static_cast<double>(rows.samples.size()) * static_cast<double>(columns.samples.size());
  if (seen < rows.num * columns.num || seen == 0) largest = std::max(largest, 0.0);
  return largest;
}

void run_roi_align(RunContext& context) {
  const Tensor &maps = context.input(0), &rois = context.input(1);
  Tensor& output = make_output(context, 0);
  const Node& node = context.node();
  const bool is_max = node.get_string("mode", "avg") == "max";
  const bool is_shifted =
      node.opset >= 16 && node.get_string("coordinate_transformation_mode", "half_pixel") == "half_pixel";
  const int64_t samples = node.get_int("sampling_ratio", 0);
  const double scale = node.get_float("spatial_scale", 1);
  const int64_t channels = maps.dim(1), height = maps.dim(2), width = maps.dim(3);
  const int64_t out_height = output.dim(2), out_width = output.dim(3);
  const std::vector<int64_t> batches = to_ints(context.input(2));
  for (const int64_t batch : batches) {
    if (batch < 0 || batch >= maps.dim(0)) context.fail("batch index {} is outside a batch of {}", batch, maps.dim(0));
  }
  if (output.count() == 0) return;
  if (height == 0 || width == 0) context.fail("the map {} is empty", to_string(maps.shape()));
  if (rois.type() != maps.type()) context.fail("the map is {}, the boxes are {}", name(maps.type()), name(rois.type()));
  auto run = [&](auto zero) {
    using T = decltype(zero);
    context.pool().parallel_for(output.dim(0), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const T* roi = rois.data<T>() + r * 4;
        const double shift = is_shifted ? 0.5 : 0.0;
        const double x = static_cast<double>(roi[0]) * scale - shift, y = static_cast<double>(roi[1]) * scale - shift;
        double roi_width = static_cast<double>(roi[2]) * scale - shift - x,
               roi_height = static_cast<double>(roi[3]) * scale - shift - y;
        if (!is_shifted) {
          roi_width = std::max(roi_width, 1.0);
          roi_height = std::max(roi_height, 1.0);
        }
        std::vector<Bin> rows, columns;
        for (int64_t i = 0; i < out_height; ++i) {
          rows.push_back(make_bin(y, roi_height / static_cast<double>(out_height), i, samples, height));
        }
        for (int64_t i = 0; i < out_width; ++i) {
          columns.push_back(make_bin(x, roi_width / static_cast<double>(out_width), i, samples, width));
        }
        T* to = output.data<T>() + r * channels * out_height * out_width;
        for (int64_t c = 0; c < channels; ++c) {
          const T* map = maps.data<T>() + (batches[static_cast<size_t>(r)] * channels + c) * height * width;
          for (const Bin& row : rows) {
            for (const Bin& column : columns) *to++ = static_cast<T>(pool_bin(map, width, row, column, is_max));
          }
        }
      }
    });
  };
  if (!dispatch<float, double>(maps.type(), run)) context.fail_type(0);
}

void infer_max_roi_pool(InferContext& context) {
  const std::vector<int64_t> pooled = context.node().get_ints("pooled_shape");
  if (pooled.size() != 2 || pooled[0] < 1 || pooled[1] < 1) {
    context.fail("pooled_shape has to be a height and a width, both above 0");
  }
  check_rank(context, 0, 4);
  check_rank(context, 1, 2);
  check_dim(context, 1, 1, 5);
  context.set_output(0, context.element(0), {dim_of(context, 1, 0), dim_of(context, 0, 1), pooled[0], pooled[1]});
}

// Where bin `index` of `num` begins and ends, in a map of `length`.
std::pair<int64_t, int64_t> bin_range(double start, double size, int64_t index, int64_t num, int64_t length) {
  const double bin = size / static_cast<double>(num), limit = static_cast<double>(length);
  const double first = std::floor(static_cast<double>(index) * bin) + start,
               last = std::ceil(static_cast<double>(index + 1) * bin) + start;
  auto place = [&](double x) { return x > 0 ? static_cast<int64_t>(std::min(x, limit)) : 0; };
  return {place(first), place(last)};
}

void run_max_roi_pool(RunContext& context) {
  const Tensor &maps = context.input(0), &rois = context.input(1);
  Tensor& output = make_output(context, 0);
  const double scale = context.node().get_float("spatial_scale", 1);
  const int64_t channels = maps.dim(1), height = maps.dim(2), width = maps.dim(3);
  const int64_t out_height = output.dim(2), out_width = output.dim(3);
  if (rois.type() != maps.type()) context.fail("the map is {}, the boxes are {}", name(maps.type()), name(rois.type()));
  auto run = [&](auto zero) {
    using T = decltype(zero);
    for (int64_t r = 0; r < rois.dim(0); ++r) {
      const auto batch = static_cast<double>(rois.data<T>()[r * 5]);
      if (!(batch >= 0 && batch < static_cast<double>(maps.dim(0)))) {
        context.fail("batch index {} is outside a batch of {}", batch, maps.dim(0));
      }
    }
    context.pool().parallel_for(rois.dim(0) * channels, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const T* roi = rois.data<T>() + i / channels * 5;
        double corners[4];
        for (int k = 0; k < 4; ++k) corners[k] = std::round(static_cast<double>(roi[k + 1]) * scale);
        const double roi_width = std::max(corners[2] - corners[0] + 1, 1.0),
                     roi_height = std::max(corners[3] - corners[1] + 1, 1.0);
        const T* map = maps.data<T>() + (static_cast<int64_t>(roi[0]) * channels + i % channels) * height * width;
        T* to = output.data<T>() + i * out_height * out_width;
        for (int64_t ph = 0; ph < out_height; ++ph) {
          const auto [top, bottom] = bin_range(corners[1], roi_height, ph, out_height, height);
          for (int64_t pw = 0; pw < out_width; ++pw) {
            const auto [left, right] = bin_range(corners[0], roi_width, pw, out_width, width);
            T largest = top < bottom && left < right ? map[top * width + left] : T{0};
            for (int64_t y = top; y < bottom; ++y) {
              for (int64_t x = left; x < right; ++x) largest = std::max(largest, map[y * width + x]);
            }
            *to++ = largest;
          }
        }
      }
    });
  };
  if (!dispatch<float, double>(maps.type(), run)) context.fail_type(0);
}

void infer_non_max_suppression(InferContext& context) {
  check_rank(context, 0, 3);
  check_rank(context, 1, 3);
  check_dim(context, 0, 2, 4);
  if (context.has_rank(0) && context.has_rank(1)) {
    const Dims& boxes = context.dims(0);
    if (boxes[0].is_known()) check_dim(context, 1, 0, boxes[0].value());
    if (boxes[1].is_known()) check_dim(context, 1, 2, boxes[1].value());
  }
  context.set_output(0, ElementType::kI64, {Dim::unknown(), 3});
}

struct Box {
  float left, top, right, bottom;
};

Box read_box(const float* from, bool is_centered) {
  if (is_centered) {
    return {from[0] - from[2] / 2, from[1] - from[3] / 2, from[0] + from[2] / 2, from[1] + from[3] / 2};
  }
  return {std::min(from[1], from[3]), std::min(from[0], from[2]), std::max(from[1], from[3]),
          std::max(from[0], from[2])};
}

bool overlap(const Box& a, const Box& b, float threshold) {
  const float width = std::min(a.right, b.right) - std::max(a.left, b.left);
  const float height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  if (!(width > 0) || !(height > 0)) return false;
  const float both = width * height;
  const float area = (a.right - a.left) * (a.bottom - a.top) + (b.right - b.left) * (b.bottom - b.top) - both;
  return area > 0 && both / area > threshold;
}

// The boxes of one class that stay, best first.
std::vector<int64_t> suppress(const std::vector<Box>& boxes, const float* scores, int64_t max_boxes,
                              float iou_threshold, const float* score_threshold) {
  std::vector<int64_t> order, kept;
  for (int64_t i = 0; i < static_cast<int64_t>(boxes.size()); ++i) {
    if (score_threshold == nullptr || scores[i] > *score_threshold) order.push_back(i);
  }
  auto key = [&](int64_t i) { return std::isnan(scores[i]) ? -std::numeric_limits<float>::infinity() : scores[i]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) > key(b); });
  for (const int64_t i : order) {
    if (static_cast<int64_t>(kept.size()) >= max_boxes) break;
    const bool is_free = std::none_of(kept.begin(), kept.end(), [&](int64_t k) {
      return overlap(boxes[static_cast<size_t>(i)], boxes[static_cast<size_t>(k)], iou_threshold);
    });
    if (is_free) kept.push_back(i);
  }
  return kept;
}

void run_non_max_suppression(RunContext& context) {
  const Tensor &boxes = context.input(0), &scores = context.input(1);
  for (int i = 0; i < 5; ++i) {
    if (!context.has_input(i)) continue;
    const bool is_right = context.input(i).type() == (i == 2 ? ElementType::kI64 : ElementType::kF32);
    if (!is_right) context.fail_type(i);
    if (i >= 2 && context.input(i).count() != 1) context.fail("input {} has to be one number", i + 1);
  }
  const int64_t max_boxes = context.get_scalar<int64_t>(2, 0);
  const float iou_threshold = context.get_scalar<float>(3, 0);
  if (!(iou_threshold >= 0 && iou_threshold <= 1)) {
    context.fail("iou_threshold is {}; it has to be between 0 and 1", iou_threshold);
  }
  const float score_threshold = context.get_scalar<float>(4, 0);
  const bool is_centered = context.node().get_int("center_point_box", 0) != 0;
  const int64_t classes = scores.dim(1), num = boxes.dim(1);
  std::vector<int64_t> selected;
  for (int64_t b = 0; b < boxes.dim(0); ++b) {
    std::vector<Box> of_batch;
    for (int64_t i = 0; i < num; ++i) {
      of_batch.push_back(read_box(boxes.data<float>() + (b * num + i) * 4, is_centered));
    }
    std::vector<std::vector<int64_t>> kept(static_cast<size_t>(classes));
    context.pool().parallel_for(classes, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t c = begin; c < end; ++c) {
        kept[static_cast<size_t>(c)] = suppress(of_batch, scores.data<float>() + (b * classes + c) * num, max_boxes,
                                                iou_threshold, context.has_input(4) ? &score_threshold : nullptr);
      }
    });
    for (int64_t c = 0; c < classes; ++c) {
      for (const int64_t i : kept[static_cast<size_t>(c)]) selected.insert(selected.end(), {b, c, i});
    }
  }
  Tensor& output = context.allocate(0, ElementType::kI64, {static_cast<int64_t>(selected.size() / 3), 3});
  std::copy(selected.begin(), selected.end(), output.data<int64_t>());
}

constexpr OpInfo kOps[] = {
    {"", "RoiAlign", 10, 0, infer_roi_align, run_roi_align, OpInfo::kViaFloat},
    {"", "MaxRoiPool", 1, 0, infer_max_roi_pool, run_max_roi_pool, OpInfo::kViaFloat},
    {"", "NonMaxSuppression", 10, 0, infer_non_max_suppression, run_non_max_suppression},
};

}  // namespace

std::span<const OpInfo> boxes_ops() { return kOps; }

}  // namespace sluice::graph::ops
