// ImageDecoder (ONNX operator specification, opset 20): the bytes of a picture to pixels [height, width, channels].
// The formats are graph/image.h's business. Grey is the luma of ITU-R BT.601 in 16-bit integers, as Pillow rounds it,
// of which the specification's reference is made. JPEG 2000, which the specification also names, is not read.
#include "graph/image.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

enum class PixelFormat : uint8_t { kRgb, kBgr, kGrey };

PixelFormat read_format(const Node& node) {
  const std::string name = node.get_string("pixel_format", "RGB");
  if (name == "RGB") return PixelFormat::kRgb;
  if (name == "BGR") return PixelFormat::kBgr;
  if (name == "Grayscale") return PixelFormat::kGrey;
  fail(Code::kInvalidArgument, "{}: pixel_format '{}' is none of RGB, BGR and Grayscale", node.describe(), name);
}

void infer_decoder(InferContext& context) {
  const PixelFormat format = read_format(context.node());
  const ElementType element = context.element(0);
  if ((element != ElementType::kU8 && element != ElementType::kUndefined) ||
      (context.has_rank(0) && context.rank(0) != 1)) {
    context.fail("input 1 is {}; it has to be the bytes of a picture, uint8 [n]", to_string(context.type(0)));
  }
  context.set_output(0, ElementType::kU8, {Dim::unknown(), Dim::unknown(), format == PixelFormat::kGrey ? 1 : 3});
}

void run_decoder(RunContext& context) {
  const Tensor& input = context.input(0);
  if (input.type() != ElementType::kU8) context.fail_type(0);
  const PixelFormat format = read_format(context.node());
  const Image image = decode_image(input.values<uint8_t>());
  const int64_t num_channels = format == PixelFormat::kGrey ? 1 : 3;
  uint8_t* to = context.allocate(0, ElementType::kU8, {image.height, image.width, num_channels}).data<uint8_t>();
  const uint8_t* from = image.pixels.data();
  for (int64_t i = 0; i < image.height * image.width; ++i, from += 3, to += num_channels) {
    switch (format) {
      case PixelFormat::kRgb:
        to[0] = from[0];
        to[1] = from[1];
        to[2] = from[2];
        break;
      case PixelFormat::kBgr:
        to[0] = from[2];
        to[1] = from[1];
        to[2] = from[0];
        break;
      case PixelFormat::kGrey:
        to[0] = static_cast<uint8_t>((19595 * from[0] + 38470 * from[1] + 7471 * from[2] + 0x8000) >> 16);
        break;
    }
  }
}

constexpr OpInfo kOps[] = {{"", "ImageDecoder", 20, 0, infer_decoder, run_decoder, OpInfo::kMakesOutputs}};

}  // namespace

std::span<const OpInfo> image_ops() { return kOps; }

}  // namespace sluice::graph::ops
