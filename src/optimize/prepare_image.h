// A picture as the input of a vision model: resized so that it covers the input, the middle cut out, normalised.
//
// The usual preparation of classifiers, close enough for ranges of activations; who needs another one writes arrays.
#pragma once

#include <array>

#include "graph/image.h"
#include "graph/tensor.h"

namespace sluice::optimize {

struct ImageOptions {
  // Of red, green and blue, with pixels from 0 to 1: (pixel - mean) / deviation. ImageNet's by default.
  std::array<float, 3> mean{0.485f, 0.456f, 0.406f}, deviation{0.229f, 0.224f, 0.225f};
  int64_t size = 224;  // where the model leaves height or width open
};

// How an input takes pictures.
struct ImageLayout {
  graph::ElementType element = graph::ElementType::kF32;  // kF32, or kU8: pixels as they are
  bool is_channels_last = false;
  int64_t batch = 1, channels = 3, height = 0, width = 0;  // channels: 3, or 1: luma
};

// [batch, ...] of that layout, every image of the batch this one.
graph::Tensor prepare_image(const graph::Image& image, const ImageLayout& layout, const ImageOptions& options);

}  // namespace sluice::optimize
