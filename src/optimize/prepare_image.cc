#include "optimize/prepare_image.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace sluice::optimize {
namespace {

// For each target pixel: the source pixels that it is made of, with triangle weights as wide as the step between
// target pixels (at least two pixels), so that shrinking averages.
struct Taps {
  int64_t first = 0;
  std::vector<float> weights;
};

// `count` pixels of the line that `from` pixels become when `scale` times as large, the middle ones.
std::vector<Taps> make_taps(int64_t from, int64_t count, double scale) {
  const double radius = std::max(1.0, 1 / scale),
               begin = (static_cast<double>(from) * scale - static_cast<double>(count)) / 2;
  std::vector<Taps> taps(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const double centre = (begin + static_cast<double>(i) + 0.5) / scale;
    Taps& tap = taps[static_cast<size_t>(i)];
    tap.first = std::clamp<int64_t>(static_cast<int64_t>(std::floor(centre - radius)), 0, from - 1);
    const int64_t last = std::clamp<int64_t>(static_cast<int64_t>(std::ceil(centre + radius)), tap.first, from - 1);
    double sum = 0;
    for (int64_t p = tap.first; p <= last; ++p) {
      const double weight = std::max(0.0, 1 - std::abs(static_cast<double>(p) + 0.5 - centre) / radius);
      tap.weights.push_back(static_cast<float>(weight));
      sum += weight;
    }
    if (sum == 0) tap.weights[0] = 1, sum = 1;
    for (float& weight : tap.weights) weight = static_cast<float>(weight / sum);
  }
  return taps;
}

}  // namespace

graph::Tensor prepare_image(const graph::Image& image, const ImageLayout& layout, const ImageOptions& options) {
  const double scale = std::max(static_cast<double>(layout.height) / static_cast<double>(image.height),
                                static_cast<double>(layout.width) / static_cast<double>(image.width));
  const std::vector<Taps> columns = make_taps(image.width, layout.width, scale);
  const std::vector<Taps> rows = make_taps(image.height, layout.height, scale);
  // Lines of the source that are needed, already of the target's width.
  const int64_t first = rows.front().first;
  const int64_t last = rows.back().first + static_cast<int64_t>(rows.back().weights.size());
  std::vector<float> lines(static_cast<size_t>((last - first) * layout.width * 3));
  for (int64_t y = first; y < last; ++y) {
    const uint8_t* source = image.pixels.data() + y * image.width * 3;
    float* line = lines.data() + (y - first) * layout.width * 3;
    for (int64_t x = 0; x < layout.width; ++x) {
      const Taps& taps = columns[static_cast<size_t>(x)];
      for (size_t t = 0; t < taps.weights.size(); ++t) {
        const uint8_t* pixel = source + (taps.first + static_cast<int64_t>(t)) * 3;
        for (int64_t c = 0; c < 3; ++c) line[x * 3 + c] += taps.weights[t] * static_cast<float>(pixel[c]);
      }
    }
  }
  const graph::Shape shape = layout.is_channels_last
                                 ? graph::Shape{layout.batch, layout.height, layout.width, layout.channels}
                                 : graph::Shape{layout.batch, layout.channels, layout.height, layout.width};
  graph::Tensor tensor(layout.element, shape);
  const int64_t area = layout.height * layout.width, count = area * layout.channels;
  auto put = [&](int64_t y, int64_t x, int64_t c, float value) {
    const int64_t at = layout.is_channels_last ? (y * layout.width + x) * layout.channels + c
                                               : c * area + y * layout.width + x;
    if (layout.element == graph::ElementType::kU8) {
      tensor.data<uint8_t>()[at] = static_cast<uint8_t>(std::clamp(std::nearbyint(value), 0.0f, 255.0f));
    } else {
      const auto i = static_cast<size_t>(c);
      tensor.data<float>()[at] = (value / 255 - options.mean[i]) / options.deviation[i];
    }
  };
  for (int64_t y = 0; y < layout.height; ++y) {
    const Taps& taps = rows[static_cast<size_t>(y)];
    for (int64_t x = 0; x < layout.width; ++x) {
      float colour[3] = {};
      for (size_t t = 0; t < taps.weights.size(); ++t) {
        const float* pixel =
            lines.data() + ((taps.first - first + static_cast<int64_t>(t)) * layout.width + x) * 3;
        for (int64_t c = 0; c < 3; ++c) colour[c] += taps.weights[t] * pixel[c];
      }
      if (layout.channels == 1) put(y, x, 0, 0.299f * colour[0] + 0.587f * colour[1] + 0.114f * colour[2]);
      for (int64_t c = 0; c < 3 && layout.channels == 3; ++c) put(y, x, c, colour[c]);
    }
  }
  auto* bytes = static_cast<uint8_t*>(tensor.raw());
  const size_t one = static_cast<size_t>(count * graph::get_info(layout.element).bytes);
  for (int64_t b = 1; b < layout.batch; ++b) std::memcpy(bytes + static_cast<size_t>(b) * one, bytes, one);
  return tensor;
}

}  // namespace sluice::optimize
