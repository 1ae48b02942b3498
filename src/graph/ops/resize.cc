// Resize and Upsample (ONNX operator specification: Upsample 1 to 9, Resize 10 to 28). Every mode is separable: an
// output place along one axis is a weighted sum of a few input places along it. Nearest is one such place, so its
// output is a move; linear and cubic run axis after axis, those that shrink first, with the sums in float (double for
// double and integers, which are then cut off, not rounded). Coordinates are computed in float, as exporters do, so
// that a scale of 1/3 written as a float falls on the same pixel. Where a scale gives a fractional size, coordinates
// refer to the fractional one, as the specification's examples have it. Opset 10 has one way only: asymmetric, nearest
// downwards, or upwards if the axis shrinks.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

enum class Mode { kNearest, kLinear, kCubic };
enum class Coordinates { kHalfPixel, kHalfPixelSymmetric, kPytorch, kAlignCorners, kAsymmetric, kCrop, kTfNearest };
enum class Rounding { kPreferFloor, kPreferCeil, kFloor, kCeil, kByDirection };
enum class Aspect { kStretch, kNotLarger, kNotSmaller };

struct Settings {
  Mode mode = Mode::kNearest;
  Coordinates coordinates = Coordinates::kAsymmetric;
  Rounding rounding = Rounding::kFloor;
  Aspect aspect = Aspect::kStretch;
  float cubic_a = -0.75f, extrapolation = 0;
  bool excludes_outside = false, is_antialiased = false;
};

template <typename Context, typename T>
T choose(const Context& context, const char* attribute, const char* otherwise,
         std::initializer_list<std::pair<const char*, T>> known) {
  const std::string word = context.node().get_string(attribute, otherwise);
  std::string names;
  for (const auto& [name, value] : known) {
    if (word == name) return value;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  context.fail("{} is '{}'; known are {}", attribute, word, names);
}

bool is_upsample(const Node& node) { return node.op_type == "Upsample"; }

template <typename Context>
Settings get_settings(const Context& context) {
  const Node& node = context.node();
  Settings settings;
  settings.mode = choose<Context, Mode>(
      context, "mode", "nearest",
      {{"nearest", Mode::kNearest}, {"linear", Mode::kLinear}, {"bilinear", Mode::kLinear}, {"cubic", Mode::kCubic}});
  if (is_upsample(node)) return settings;
  if (node.opset < 11) {
    settings.rounding = Rounding::kByDirection;
    return settings;
  }
  settings.coordinates = choose<Context, Coordinates>(
      context, "coordinate_transformation_mode", "half_pixel",
      {{"half_pixel", Coordinates::kHalfPixel}, {"half_pixel_symmetric", Coordinates::kHalfPixelSymmetric},
       {"pytorch_half_pixel", Coordinates::kPytorch}, {"align_corners", Coordinates::kAlignCorners},
       {"asymmetric", Coordinates::kAsymmetric}, {"tf_crop_and_resize", Coordinates::kCrop},
       {"tf_half_pixel_for_nn", Coordinates::kTfNearest}});
  settings.rounding = choose<Context, Rounding>(context, "nearest_mode", "round_prefer_floor",
                                                {{"round_prefer_floor", Rounding::kPreferFloor},
                                                 {"round_prefer_ceil", Rounding::kPreferCeil},
                                                 {"floor", Rounding::kFloor}, {"ceil", Rounding::kCeil}});
  settings.aspect = choose<Context, Aspect>(context, "keep_aspect_ratio_policy", "stretch",
                                            {{"stretch", Aspect::kStretch}, {"not_larger", Aspect::kNotLarger},
                                             {"not_smaller", Aspect::kNotSmaller}});
  settings.cubic_a = node.get_float("cubic_coeff_a", -0.75f);
  settings.extrapolation = node.get_float("extrapolation_value", 0);
  settings.excludes_outside = node.get_int("exclude_outside", 0) != 0;
  settings.is_antialiased = node.get_int("antialias", 0) != 0 && settings.mode != Mode::kNearest;
  return settings;
}

// Where the inputs are: Resize 10 and Upsample 9 have (X, scales), later ones (X, roi, scales, sizes).
int scales_input(const Node& node) { return is_upsample(node) || node.opset < 11 ? 1 : 2; }

// The axes that roi, scales and sizes speak of.
template <typename Context>
std::vector<int> get_axes(const Context& context, int rank) {
  std::vector<int> axes;
  for (const int64_t axis : context.node().get_ints("axes")) {
    axes.push_back(context.axis(axis, rank));
    if (std::count(axes.begin(), axes.end(), axes.back()) > 1) context.fail("axis {} is given twice", axis);
  }
  if (!context.node().has("axes")) {
    for (int i = 0; i < rank; ++i) axes.push_back(i);
  }
  return axes;
}

// Numbers of a float input.
template <typename Context>
std::vector<float> read_floats(const Context& context, const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(std::min<int64_t>(tensor.count(), 2 * kMaxRank + 1)));
  auto read = [&](auto zero) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(tensor.data<decltype(zero)>()[i]);
  };
  if (!dispatch<float, double>(tensor.type(), read)) {
    context.fail("takes float32 scales and roi, not {}", name(tensor.type()));
  }
  return values;
}

template <typename Context>
void check_scales(const Context& context, const std::vector<float>& scales, size_t num_axes) {
  if (scales.size() != num_axes) context.fail("has {} scales for {} axes", scales.size(), num_axes);
  for (const float scale : scales) {
    if (!(scale > 0) || !std::isfinite(scale)) context.fail("a scale is {}; it has to be above 0", scale);
  }
}

// Scales that are attributes.
std::vector<float> get_scale_attributes(const Node& node, int rank) {
  if (node.opset >= 7) return node.get_floats("scales");
  std::vector<float> scales(static_cast<size_t>(rank), 1.0f);
  if (rank >= 2) {
    scales[static_cast<size_t>(rank) - 2] = node.get_float("height_scale", 1);
    scales[static_cast<size_t>(rank) - 1] = node.get_float("width_scale", 1);
  }
  return scales;
}

bool has_scale_attributes(const Node& node) { return is_upsample(node) && node.opset < 9; }

Dim scaled(const Dim& dim, float scale) {
  if (scale == 1) return dim;
  if (dim.is_known()) {
    const float size = std::floor(static_cast<float>(dim.value()) * scale);
    return size < 9e18f ? Dim(static_cast<int64_t>(size)) : Dim::unknown();
  }
  if (scale == std::floor(scale) && scale < 65536) return dim * static_cast<int64_t>(scale);
  const float inverse = 1 / scale;
  if (inverse < 65536 && (inverse == 2 || inverse == 4 || inverse == 8 || inverse == 16 || inverse == 32)) {
    return floor_divide(dim, static_cast<int64_t>(inverse));
  }
  return Dim::unknown();
}

// With an aspect ratio to keep, one scale is for all axes.
float common_scale(Aspect aspect, const Shape& shape, const std::vector<int>& axes, const std::vector<int64_t>& sizes) {
  float common = 0;
  for (size_t i = 0; i < axes.size(); ++i) {
    const float scale = static_cast<float>(sizes[i]) / static_cast<float>(std::max<int64_t>(1, shape[axes[i]]));
    if (i == 0 || (aspect == Aspect::kNotLarger ? scale < common : scale > common)) common = scale;
  }
  return common;
}

int64_t rounded_size(int64_t size, float scale) {
  return static_cast<int64_t>(std::floor(static_cast<double>(static_cast<float>(size) * scale) + 0.5));
}

void infer_resize(InferContext& context) {
  const Settings settings = get_settings(context);
  const Node& node = context.node();
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  const int rank = context.rank(0);
  const std::vector<int> axes = get_axes(context, rank);
  Dims dims = context.dims(0);
  auto set_scaled = [&](std::vector<float> scales, const std::vector<float>* roi) {
    check_scales(context, scales, axes.size());
    for (size_t i = 0; i < axes.size(); ++i) {
      Dim& dim = dims[static_cast<size_t>(axes[i])];
      dim = scaled(dim, roi == nullptr ? scales[i] : scales[i] * ((*roi)[i + axes.size()] - (*roi)[i]));
    }
    return context.set_output(0, context.element(0), std::move(dims));
  };
  if (has_scale_attributes(node)) return set_scaled(get_scale_attributes(node, rank), nullptr);
  const int at = scales_input(node);
  const bool has_sizes = context.has_input(3) &&
                         !(context.has_rank(3) && context.rank(3) == 1 && context.dims(3)[0] == Dim(0));
  if (has_sizes) {
    const auto sizes = find_shape_ints(context, 3);
    if (sizes && sizes->size() != axes.size()) context.fail("has {} sizes for {} axes", sizes->size(), axes.size());
    for (size_t i = 0; i < axes.size(); ++i) {
      if (sizes && (*sizes)[i].is_known() && (*sizes)[i].value() < 0) context.fail("a size is {}", (*sizes)[i].value());
    }
    const auto shape = known_shape(dims);
    const auto known = sizes ? context.known_ints(3) : std::nullopt;
    for (size_t i = 0; i < axes.size(); ++i) {
      Dim& dim = dims[static_cast<size_t>(axes[i])];
      if (!sizes) {
        dim = Dim::unknown();
      } else if (settings.aspect == Aspect::kStretch) {
        dim = (*sizes)[i];
      } else if (known && shape) {
        dim = rounded_size(dim.value(), common_scale(settings.aspect, *shape, axes, *known));
      } else {
        dim = Dim::unknown();
      }
    }
    return context.set_output(0, context.element(0), std::move(dims));
  }
  if (!context.has_input(at)) context.fail("has neither scales nor sizes");
  const Tensor* scales = context.constant(at);
  const Tensor* roi = nullptr;
  if (settings.coordinates == Coordinates::kCrop) {
    if (!context.has_input(1)) context.fail("tf_crop_and_resize needs a roi");
    roi = context.constant(1);
    if (roi == nullptr) scales = nullptr;
  }
  if (scales == nullptr) {
    for (const int axis : axes) dims[static_cast<size_t>(axis)] = Dim::unknown();
    return context.set_output(0, context.element(0), std::move(dims));
  }
  std::vector<float> corners;
  if (roi != nullptr) {
    corners = read_floats(context, *roi);
    if (corners.size() != 2 * axes.size()) {
      context.fail("roi has {} numbers for {} axes; each takes two", corners.size(), axes.size());
    }
    for (size_t i = 0; i < axes.size(); ++i) {
      if (!(corners[i + axes.size()] - corners[i] >= 0)) {
        context.fail("roi ends at {} and starts at {}", corners[i + axes.size()], corners[i]);
      }
    }
  }
  set_scaled(read_floats(context, *scales), roi == nullptr ? nullptr : &corners);
}

// One axis that changes.
struct ResizeAxis {
  int axis = 0;
  int64_t from = 0, to = 0;     // sizes
  float scale = 1;
  float width = 0;              // the size that coordinates refer to: `to`, or from * scale with its fraction
  float start = 0, end = 1;     // of the roi
};

// The place in the input that place `at` of the output shows.
float source_of(Coordinates coordinates, const ResizeAxis& a, int64_t at) {
  const auto x = static_cast<float>(at), n = static_cast<float>(a.from);
  switch (coordinates) {
    case Coordinates::kHalfPixel: return (x + 0.5f) / a.scale - 0.5f;
    case Coordinates::kHalfPixelSymmetric:
      return n / 2 * (1 - static_cast<float>(a.to) / a.width) + (x + 0.5f) / a.scale - 0.5f;
    case Coordinates::kPytorch: return a.to > 1 ? (x + 0.5f) / a.scale - 0.5f : 0.0f;
    case Coordinates::kAlignCorners: return a.to == 1 || a.width == 1 ? 0.0f : x * (n - 1) / (a.width - 1);
    case Coordinates::kAsymmetric: return x / a.scale;
    case Coordinates::kTfNearest: return (x + 0.5f) / a.scale;
    case Coordinates::kCrop:
      if (a.to <= 1) return 0.5f * (a.start + a.end) * (n - 1);
      return a.start * (n - 1) + x * (a.end - a.start) * (n - 1) / static_cast<float>(a.to - 1);
  }
  return 0;
}

bool is_outside(const Settings& settings, const ResizeAxis& axis, float x) {
  return settings.coordinates == Coordinates::kCrop && !(x >= 0 && x <= static_cast<float>(axis.from - 1));
}

// A float as a place; NaN is place 0, and nothing overflows.
int64_t to_place(float x, int64_t n) {
  return x > 0 ? static_cast<int64_t>(std::min(x, static_cast<float>(n)))
               : -static_cast<int64_t>(std::min(-x > 0 ? -x : 0.0f, static_cast<float>(n)));
}

int64_t nearest_place(const Settings& settings, const ResizeAxis& axis, float x) {
  float place = 0;
  switch (settings.rounding) {
    case Rounding::kPreferFloor: place = std::ceil(x - 0.5f); break;
    case Rounding::kPreferCeil: place = std::floor(x + 0.5f); break;
    case Rounding::kFloor: place = std::floor(x); break;
    case Rounding::kCeil: place = std::ceil(x); break;
    case Rounding::kByDirection: place = axis.scale < 1 ? std::ceil(x) : std::floor(x); break;
  }
  return std::clamp<int64_t>(to_place(place, axis.from), 0, axis.from - 1);
}

std::vector<ResizeAxis> find_axes(RunContext& context, const Settings& settings, const Shape& from, const Shape& to) {
  const Node& node = context.node();
  const std::vector<int> axes = get_axes(context, from.rank());
  std::vector<float> scales, roi;
  if (has_scale_attributes(node)) {
    scales = get_scale_attributes(node, from.rank());
  } else if (context.has_input(3) && context.input(3).count() > 0) {
    if (settings.aspect != Aspect::kStretch) {
      scales.assign(axes.size(), common_scale(settings.aspect, from, axes, to_ints(context.input(3))));
    }
  } else {
    scales = read_floats(context, context.input(scales_input(node)));
  }
  if (settings.coordinates == Coordinates::kCrop) {
    roi = read_floats(context, context.input(1));
    if (roi.size() != 2 * axes.size()) {
      context.fail("roi has {} numbers for {} axes; each takes two", roi.size(), axes.size());
    }
  }
  std::vector<ResizeAxis> changed;
  for (size_t i = 0; i < axes.size(); ++i) {
    ResizeAxis axis{.axis = axes[i], .from = from[axes[i]], .to = to[axes[i]]};
    axis.width = static_cast<float>(axis.to);
    axis.scale = axis.width / static_cast<float>(std::max<int64_t>(1, axis.from));
    if (!scales.empty()) {
      axis.scale = scales[i];
      axis.width = axis.scale * static_cast<float>(axis.from);
    }
    if (!roi.empty()) {
      axis.start = roi[i];
      axis.end = roi[i + axes.size()];
    }
    if (axis.from == axis.to && axis.scale == 1 && axis.start == 0 && axis.end == 1 &&
        settings.coordinates != Coordinates::kTfNearest) {
      continue;
    }
    changed.push_back(axis);
  }
  return changed;
}

// Which input places make up each output place of an axis.
struct Taps {
  int64_t num = 0;              // of each output place
  std::vector<int64_t> places;  // [to, num]
  std::vector<double> weights;  // [to, num]
};

double cubic_weight(double a, double distance) {
  const double x = std::abs(distance);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

Taps find_taps(const Settings& settings, const ResizeAxis& axis) {
  // The filter is as wide as an output pixel if that is wider.
  const double narrow =
      settings.is_antialiased ? std::clamp<double>(axis.scale, 1.0 / static_cast<double>(axis.from), 1.0) : 1.0;
  const double radius = (settings.mode == Mode::kLinear ? 1.0 : 2.0) / narrow;
  const int64_t reach = static_cast<int64_t>(std::ceil(radius));
  Taps taps;
  taps.num = std::min(2 * reach, axis.from);
  if (axis.to > (int64_t{1} << 28) / taps.num) {
    fail(Code::kInvalidArgument, "a dimension of {} made into {} by a filter of {} places is too large", axis.from,
         axis.to, taps.num);
  }
  taps.places.resize(static_cast<size_t>(axis.to * taps.num));
  taps.weights.resize(taps.places.size());
  for (int64_t i = 0; i < axis.to; ++i) {
    const float x = source_of(settings.coordinates, axis, i);
    const int64_t base = to_place(std::floor(x), axis.from + 1);
    const double exact = std::clamp<double>(x, static_cast<double>(base), static_cast<double>(base) + 1);
    // What lies outside counts for the place at the edge, or not at all.
    const int64_t first = std::clamp<int64_t>(base - reach + 1, 0, axis.from - taps.num);
    int64_t* places = taps.places.data() + i * taps.num;
    double* weights = taps.weights.data() + i * taps.num;
    for (int64_t k = 0; k < taps.num; ++k) places[k] = first + k;
    double sum = 0;
    for (int64_t k = base - reach + 1; k <= base + reach; ++k) {
      const double distance = (static_cast<double>(k) - exact) * narrow;
      const double weight = settings.mode == Mode::kLinear ? std::max(0.0, 1 - std::abs(distance))
                                                           : cubic_weight(settings.cubic_a, distance);
      if (settings.excludes_outside && (k < 0 || k >= axis.from)) continue;
      weights[std::clamp<int64_t>(k, first, first + taps.num - 1) - first] += weight;
      sum += weight;
    }
    if ((settings.is_antialiased || settings.excludes_outside) && sum != 0) {
      for (int64_t k = 0; k < taps.num; ++k) weights[k] /= sum;
    }
  }
  return taps;
}

// [outer, axis.from, inner] to [outer, axis.to, inner].
template <typename V>
void resize_axis(const V* from, V* to, const ResizeAxis& axis, const Taps& taps, int64_t outer, int64_t inner,
                 ThreadPool& pool) {
  const std::vector<V> weights(taps.weights.begin(), taps.weights.end());
  const int64_t num = taps.num;
  if (inner == 1) {
    pool.parallel_for(outer, std::max<int64_t>(1, 16384 / (axis.to * num)), [&](int64_t begin, int64_t end, int) {
      for (int64_t o = begin; o < end; ++o) {
        const V* source = from + o * axis.from;
        for (int64_t i = 0; i < axis.to; ++i) {
          const V* w = weights.data() + i * num;
          const V* s = source + taps.places[static_cast<size_t>(i * num)];
          V sum = 0;
          for (int64_t k = 0; k < num; ++k) sum += w[k] * s[k];
          to[o * axis.to + i] = sum;
        }
      }
    });
    return;
  }
  pool.parallel_for(outer * axis.to, std::max<int64_t>(1, 16384 / (inner * num)), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t i = r % axis.to;
      const V* source = from + (r / axis.to * axis.from + taps.places[static_cast<size_t>(i * num)]) * inner;
      const V* w = weights.data() + i * num;
      V* target = to + r * inner;
      for (int64_t c = 0; c < inner; ++c) target[c] = w[0] * source[c];
      for (int64_t k = 1; k < num; ++k) {
        const V* row = source + k * inner;
        const V weight = w[k];
        if (weight == 0) continue;  // so that an infinity beside does not become a NaN
        for (int64_t c = 0; c < inner; ++c) target[c] += weight * row[c];
      }
    }
  });
}

// Sums cut off as integers, within their range; the smallest error of a sum must not lose a whole one.
template <typename T>
T cut_off(double value) {
  const double nudged = value + std::copysign(1e-5, value);
  if (!(nudged > static_cast<double>(std::numeric_limits<T>::min()))) {
    return std::isnan(nudged) ? T{} : std::numeric_limits<T>::min();
  }
  if (nudged >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  return static_cast<T>(nudged);
}

template <typename T>
void interpolate(RunContext& context, const Settings& settings, std::vector<ResizeAxis> axes, Tensor& output) {
  using V = std::conditional_t<std::is_same_v<T, float>, float, double>;
  const Tensor& input = context.input(0);
  Tensor current = input;
  if constexpr (!std::is_same_v<T, V>) {
    current = context.make(type_of<V>(), input.shape());
    std::copy_n(input.data<T>(), input.count(), current.data<V>());
  }
  std::sort(axes.begin(), axes.end(), [](const ResizeAxis& a, const ResizeAxis& b) {
    return std::make_pair(a.scale, -a.axis) < std::make_pair(b.scale, -b.axis);
  });
  for (size_t i = 0; i < axes.size(); ++i) {
    const ResizeAxis& axis = axes[i];
    Shape shape = current.shape();
    shape[axis.axis] = axis.to;
    const bool is_last = i + 1 == axes.size() && std::is_same_v<T, V>;
    Tensor next = is_last ? output : context.make(type_of<V>(), shape);
    resize_axis(current.data<V>(), next.data<V>(), axis, find_taps(settings, axis), shape.count(0, axis.axis),
                shape.count(axis.axis + 1, shape.rank()), context.pool());
    current = next;
  }
  if constexpr (!std::is_same_v<T, V>) {
    const V* from = current.data<V>();
    T* to = output.data<T>();
    for (int64_t i = 0; i < output.count(); ++i) to[i] = cut_off<T>(from[i]);
  }
  // Places outside the image of tf_crop_and_resize.
  if (settings.coordinates != Coordinates::kCrop) return;
  T* to = output.data<T>();
  const T value = std::is_integral_v<T> ? cut_off<T>(settings.extrapolation) : static_cast<T>(settings.extrapolation);
  for (const ResizeAxis& axis : axes) {
    const int64_t inner = output.shape().count(axis.axis + 1, output.rank());
    for (int64_t r = 0; r < output.count() / inner; ++r) {
      if (is_outside(settings, axis, source_of(settings.coordinates, axis, r % axis.to))) {
        std::fill_n(to + r * inner, inner, value);
      }
    }
  }
}

void pick_nearest(RunContext& context, const Settings& settings, const std::vector<ResizeAxis>& axes, Tensor& output) {
  const Tensor& input = context.input(0);
  const Shape steps = strides_of(input.shape());
  int last = 0;  // axes after this one are as they were
  for (const ResizeAxis& axis : axes) last = std::max(last, axis.axis);
  std::vector<PlaceAxis> places(static_cast<size_t>(last) + 1);
  for (int i = 0; i <= last; ++i) {
    for (int64_t k = 0; k < output.dim(i); ++k) places[static_cast<size_t>(i)].source.push_back(k * steps[i]);
  }
  for (const ResizeAxis& axis : axes) {
    std::vector<int64_t>& source = places[static_cast<size_t>(axis.axis)].source;
    for (int64_t k = 0; k < axis.to; ++k) {
      const float x = source_of(settings.coordinates, axis, k);
      source[static_cast<size_t>(k)] =
          is_outside(settings, axis, x) ? -1 : nearest_place(settings, axis, x) * steps[axis.axis];
    }
  }
  dispatch_width(input.type(), [&](auto zero) {
    using T = decltype(zero);
    T value{};
    auto set = [&](auto kind) {
      using E = decltype(kind);
      const E number =
          std::is_integral_v<E> ? cut_off<E>(settings.extrapolation) : static_cast<E>(settings.extrapolation);
      if constexpr (sizeof(E) == sizeof(T)) std::memcpy(static_cast<void*>(&value), &number, sizeof number);
    };
    dispatch_numbers(input.type(), set);
    move_places<T>(input, output, places, input.shape().count(last + 1, input.rank()), value, context.pool());
  });
}

void run_resize(RunContext& context) {
  const Settings settings = get_settings(context);
  const Tensor& input = context.input(0);
  const Shape shape = get_output_shape(context, 0);
  const std::vector<ResizeAxis> axes = find_axes(context, settings, input.shape(), shape);
  if (axes.empty()) return context.set(0, input);
  Tensor& output = make_output(context, 0);
  if (output.count() == 0) return;
  if (input.count() == 0) {
    context.fail("cannot make {} out of {}, which is empty", to_string(shape), to_string(input.shape()));
  }
  if (settings.mode == Mode::kNearest) return pick_nearest(context, settings, axes, output);
  auto run = [&](auto zero) { interpolate<decltype(zero)>(context, settings, axes, output); };
  if (!dispatch_numbers(input.type(), run)) context.fail_type(0);
}

constexpr OpInfo kOps[] = {
    {"", "Upsample", 1, 9, infer_resize, run_resize, OpInfo::kViaFloat | OpInfo::kMakesOutputs},
    {"", "Resize", 10, 0, infer_resize, run_resize, OpInfo::kViaFloat | OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> resize_ops() { return kOps; }

}  // namespace sluice::graph::ops
