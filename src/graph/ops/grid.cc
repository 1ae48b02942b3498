// GridSample and AffineGrid (ONNX operator specification: GridSample 16 to 22 and as com.microsoft has it, AffineGrid
// 20). GridSample takes any number of spatial dimensions: for each point of the grid it finds the places and weights
// along every axis (1 for nearest, 2 for linear, 4 for cubic), multiplies them out and applies them to all channels.
// A coordinate outside is first clamped or reflected itself, in every mode, and then so are the places around it, as
// the specification's reference does; nearest rounds halves to even. Coordinates that are no number count as far
// outside.
#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

constexpr int kMaxSpatial = 5;  // dimensions; cubic has 4 to their power of places

enum class Mode { kNearest, kLinear, kCubic };
enum class Padding { kZeros, kBorder, kReflection };

template <typename Context>
Mode get_mode(const Context& context) {
  const std::string mode = context.node().get_string("mode", "linear");
  if (mode == "nearest") return Mode::kNearest;
  if (mode == "linear" || mode == "bilinear") return Mode::kLinear;
  if (mode == "cubic" || mode == "bicubic") return Mode::kCubic;
  context.fail("mode is '{}'; nearest, linear and cubic are known", mode);
}

template <typename Context>
Padding get_padding(const Context& context) {
  const std::string padding = context.node().get_string("padding_mode", "zeros");
  if (padding == "zeros") return Padding::kZeros;
  if (padding == "border") return Padding::kBorder;
  if (padding == "reflection") return Padding::kReflection;
  context.fail("padding_mode is '{}'; zeros, border and reflection are known", padding);
}

void infer_grid_sample(InferContext& context) {
  get_mode(context);
  get_padding(context);
  if (!context.has_rank(0) || !context.has_rank(1)) {
    const int either = context.has_rank(0) ? 0 : 1;
    if (!context.has_rank(either)) return context.set_output(0, context.element(0));
    return context.set_output(0, context.element(0), unknown_dims(context.rank(either)));
  }
  const Dims &image = context.dims(0), &grid = context.dims(1);
  const int spatial = context.rank(0) - 2;
  if (spatial < 1 || spatial > kMaxSpatial || image.size() != grid.size()) {
    context.fail("an image {} and a grid {}: both have to have the same number of dimensions, 3 to {}",
                 to_string(image), to_string(grid), kMaxSpatial + 2);
  }
  if (grid.back().is_known() && grid.back().value() != spatial) {
    context.fail("the grid's points have {} coordinates; the image has {} dimensions", grid.back().value(), spatial);
  }
  if (image[0].is_known() && grid[0].is_known() && image[0] != grid[0]) {
    context.fail("there are {} images and {} grids", image[0].value(), grid[0].value());
  }
  Dims dims{image[0], image[1]};
  dims.insert(dims.end(), grid.begin() + 1, grid.end() - 1);
  context.set_output(0, context.element(0), std::move(dims));
}

// Back and forth between two borders, as often as needed.
double reflect(double x, double low, double high) {
  const double range = high - low;
  if (range <= 0) return low;
  const double distance = x < low ? low - x : x - high;
  if (!(x < low) && !(x > high)) return x;
  const double rest = std::fmod(distance, range);
  const bool is_even = std::fmod(std::floor(distance / range), 2.0) == 0;
  return (x < low) == is_even ? low + rest : high - rest;
}

struct Axis {
  int64_t length = 0, step = 0;
  double low = 0, high = 0;  // borders
};

// The places along one axis that make up coordinate `x`. Returns how many.
int find_places(Mode mode, Padding padding, bool aligns_corners, const Axis& axis, double given, int64_t* places,
                float* weights) {
  const auto n = static_cast<double>(axis.length);
  // In float, as grids are.
  double x = static_cast<float>(aligns_corners ? (given + 1) / 2 * (n - 1) : ((given + 1) * n - 1) / 2);
  if (mode == Mode::kNearest) x = std::nearbyint(x);
  if (padding == Padding::kBorder) x = std::clamp(x, 0.0, n - 1);
  if (padding == Padding::kReflection) x = reflect(x, axis.low, axis.high);
  if (!(x > -4)) x = -4;  // NaN as well
  if (x > n + 4) x = n + 4;
  const double base = std::floor(x);
  const float t = static_cast<float>(x - base);
  int num = 1, first = 0;
  weights[0] = 1;
  if (mode == Mode::kLinear) {
    num = 2;
    weights[0] = 1 - t;
    weights[1] = t;
  } else if (mode == Mode::kCubic) {
    constexpr float a = -0.75f;
    num = 4;
    first = -1;
    auto near = [](float d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
    auto far = [](float d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
    weights[0] = far(t + 1);
    weights[1] = near(t);
    weights[2] = near(1 - t);
    weights[3] = far(2 - t);
  }
  for (int k = 0; k < num; ++k) {
    int64_t place = static_cast<int64_t>(base) + first + k;
    if (padding == Padding::kZeros && (place < 0 || place >= axis.length)) {
      place = 0;
      weights[k] = 0;
    } else if (padding == Padding::kReflection) {
      place = static_cast<int64_t>(reflect(static_cast<double>(place), axis.low, axis.high));
    }
    places[k] = std::clamp<int64_t>(place, 0, axis.length - 1) * axis.step;
  }
  return num;
}

template <typename T, typename G>
void sample(RunContext& context, Tensor& output) {
  const Tensor &image = context.input(0), &grid = context.input(1);
  const Mode mode = get_mode(context);
  const Padding padding = get_padding(context);
  const bool aligns_corners = context.node().get_int("align_corners", 0) != 0;
  const int spatial = image.rank() - 2;
  const Shape steps = strides_of(image.shape());
  Axis axes[kMaxSpatial];
  for (int d = 0; d < spatial; ++d) {
    const int64_t n = image.dim(d + 2);
    axes[d] = {n, steps[d + 2], aligns_corners ? 0 : -0.5, static_cast<double>(n) - (aligns_corners ? 1 : 0.5)};
  }
  const int64_t channels = image.dim(1), plane = image.shape().count(2, image.rank());
  const int64_t points = output.shape().count(2, output.rank());
  const T* from = image.data<T>();
  const G* coordinates = grid.data<G>();
  T* to = output.data<T>();
  using V = std::conditional_t<std::is_same_v<T, float>, float, double>;
  context.pool().parallel_for(image.dim(0) * points, 512, [&](int64_t begin, int64_t end, int) {
    int64_t offsets[1024];  // 4 to the power of kMaxSpatial
    float weights[1024];
    for (int64_t p = begin; p < end; ++p) {
      int num = 1;
      offsets[0] = 0;
      weights[0] = 1;
      for (int d = 0; d < spatial; ++d) {
        int64_t places[4];
        float parts[4];
        const auto x = static_cast<double>(coordinates[p * spatial + spatial - 1 - d]);
        const int taps = find_places(mode, padding, aligns_corners, axes[d], x, places, parts);
        int kept = 0;
        for (int k = 0; k < taps; ++k) kept += parts[k] != 0;
        if (kept == 0) num = 0;
        // From the back, in place: product i * kept + j comes from entry i.
        for (int i = num - 1; i >= 0; --i) {
          const int64_t offset = offsets[i];
          const float weight = weights[i];
          int at = i * kept;
          for (int k = 0; k < taps; ++k) {
            if (parts[k] == 0) continue;
            offsets[at] = offset + places[k];
            weights[at++] = weight * parts[k];
          }
        }
        num *= kept;
      }
      const int64_t n = p / points, at = p % points;
      for (int64_t c = 0; c < channels; ++c) {
        const T* source = from + (n * channels + c) * plane;
        V sum = 0;
        for (int i = 0; i < num; ++i) sum += static_cast<V>(weights[i]) * static_cast<V>(source[offsets[i]]);
        T& target = to[(n * channels + c) * points + at];
        if constexpr (std::is_integral_v<T>) {
          target = static_cast<T>(std::clamp(sum, static_cast<V>(std::numeric_limits<T>::min()),
                                             std::nextafter(static_cast<V>(std::numeric_limits<T>::max()), V{0})));
        } else {
          target = sum;
        }
      }
    }
  });
}

void run_grid_sample(RunContext& context) {
  const Tensor& image = context.input(0);
  Tensor& output = make_output(context, 0);
  if (output.count() == 0) return;
  if (image.count() == 0) context.fail("the image {} is empty", to_string(image.shape()));
  auto run = [&](auto zero) {
    using T = decltype(zero);
    if (context.input(1).type() == ElementType::kF32) sample<T, float>(context, output);
    else if (context.input(1).type() == ElementType::kF64) sample<T, double>(context, output);
    else context.fail_type(1);
  };
  if (!dispatch<float, double, int64_t, int32_t, int8_t, uint8_t>(image.type(), run)) context.fail_type(0);
}

void infer_affine_grid(InferContext& context) {
  if (context.has_rank(0) && context.rank(0) != 3) {
    context.fail("theta has to have 3 dimensions, not {}", context.rank(0));
  }
  const auto size = find_shape_ints(context, 1);
  if (!size) {
    const bool knows_length = context.has_rank(1) && context.rank(1) == 1 && context.dims(1)[0].is_known();
    const int64_t length = knows_length ? context.dims(1)[0].value() : 0;
    if (length == 4 || length == 5) {
      return context.set_output(0, context.element(0), unknown_dims(static_cast<int>(length)));
    }
    return context.set_output(0, context.element(0));
  }
  if (size->size() != 4 && size->size() != 5) {
    context.fail("size has {} entries; (N, C, H, W) or (N, C, D, H, W) is needed", size->size());
  }
  const auto spatial = static_cast<int64_t>(size->size()) - 2;
  for (const Dim& dim : *size) {
    if (dim.is_known() && dim.value() < 0) context.fail("size has an entry of {}", dim.value());
  }
  if (context.has_rank(0)) {
    const Dims& theta = context.dims(0);
    const bool fits = (!theta[1].is_known() || theta[1] == Dim(spatial)) &&
                      (!theta[2].is_known() || theta[2] == Dim(spatial + 1)) &&
                      (!theta[0].is_known() || !(*size)[0].is_known() || theta[0] == (*size)[0]);
    if (!fits) {
      context.fail("theta {} does not fit to {} images of {} dimensions", to_string(theta), (*size)[0].to_string(),
                   spatial);
    }
  }
  Dims dims{(*size)[0]};
  dims.insert(dims.end(), size->begin() + 2, size->end());
  dims.push_back(spatial);
  context.set_output(0, context.element(0), std::move(dims));
}

void run_affine_grid(RunContext& context) {
  const Tensor& theta = context.input(0);
  Tensor& output = make_output(context, 0);
  const int spatial = output.rank() - 2;
  const bool aligns_corners = context.node().get_int("align_corners", 0) != 0;
  const int64_t points = output.shape().count(1, spatial + 1);
  auto run = [&](auto zero) {
    using T = decltype(zero);
    std::vector<double> along[3];  // normalised coordinates of each dimension, outermost first
    for (int d = 0; d < spatial; ++d) {
      const int64_t n = output.dim(d + 1);
      for (int64_t i = 0; i < n && points > 0; ++i) {
        const double x = static_cast<double>(i), length = static_cast<double>(n);
        along[d].push_back(aligns_corners ? (n == 1 ? 0.0 : 2 * x / (length - 1) - 1) : (2 * x + 1) / length - 1);
      }
    }
    const T* matrices = theta.data<T>();
    T* to = output.data<T>();
    context.pool().parallel_for(output.dim(0) * points, 4096, [&](int64_t begin, int64_t end, int) {
      for (int64_t p = begin; p < end; ++p) {
        const T* matrix = matrices + p / points * spatial * (spatial + 1);
        double point[4] = {};  // innermost first, then 1
        int64_t place = p % points;
        for (int d = spatial - 1; d >= 0; --d) {
          const auto length = static_cast<int64_t>(along[d].size());
          point[spatial - 1 - d] = along[d][static_cast<size_t>(place % length)];
          place /= length;
        }
        point[spatial] = 1;
        for (int r = 0; r < spatial; ++r) {
          double sum = 0;
          for (int k = 0; k <= spatial; ++k) sum += static_cast<double>(matrix[r * (spatial + 1) + k]) * point[k];
          to[p * spatial + r] = static_cast<T>(sum);
        }
      }
    });
  };
  if (!dispatch<float, double>(theta.type(), run)) context.fail_type(0);
}

constexpr OpInfo kOps[] = {
    {"", "GridSample", 16, 0, infer_grid_sample, run_grid_sample, OpInfo::kViaFloat},
    {kMicrosoft, "GridSample", 1, 0, infer_grid_sample, run_grid_sample, OpInfo::kViaFloat},
    {"", "AffineGrid", 20, 0, infer_affine_grid, run_affine_grid, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> grid_ops() { return kOps; }

}  // namespace sluice::graph::ops
