// MatMulNBits of com.microsoft: Y = A * transpose(dequantised B) + bias, with weights of 2 to 8 bits in blocks along K,
// as ONNX Runtime's contrib operator document defines it.
//
// Weights are unpacked and scaled while gemm.h packs its panels, in f32 whatever accuracy_level says: that attribute is
// the lowest accuracy a runtime may choose. The bits of a block are one stream, lowest bit of the lowest byte first.
// The document tells the layout of 4 bits; the same stream is taken for every width.
#include <cmath>

#include "graph/ops/gemm.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

struct Weights {
  const uint8_t* bytes = nullptr;         // [n, blocks, blob_bytes]
  const float* scales = nullptr;          // [n, blocks]
  const uint8_t* packed_zeros = nullptr;  // [n, zero_bytes]
  const float* zeros = nullptr;           // [n, blocks]
  const int32_t* groups = nullptr;        // [k]: the block of each row of weights; null: in order
  int64_t blocks = 0, block_size = 0, blob_bytes = 0, zero_bytes = 0;
  int bits = 4;
};

// Value `index` of a stream of `bits` wide values.
inline uint32_t read_bits(const uint8_t* bytes, int64_t index, int bits) {
  const int64_t at = index * bits;
  const int shift = static_cast<int>(at & 7);
  uint32_t value = bytes[at >> 3] >> shift;
  if (shift + bits > 8) value |= static_cast<uint32_t>(bytes[(at >> 3) + 1]) << (8 - shift);
  return value & ((1u << bits) - 1);
}

float zero_of(const Weights& w, int64_t line, int64_t block) {
  if (w.packed_zeros != nullptr)
    return static_cast<float>(read_bits(w.packed_zeros + line * w.zero_bytes, block, w.bits));
  if (w.zeros != nullptr) return w.zeros[line * w.blocks + block];
  return static_cast<float>(1 << (w.bits - 1));
}

// Values [begin, end) of one block.
void unpack(const Weights& w, const uint8_t* blob, int64_t begin, int64_t end, float* to) {
  if (w.bits == 8) {
    for (int64_t i = begin; i < end; ++i) to[i - begin] = blob[i];
  } else if (w.bits == 4 && begin % 2 == 0 && end % 2 == 0) {
    for (int64_t i = begin / 2; i < end / 2; ++i) {
      to[2 * i - begin] = static_cast<float>(blob[i] & 15);
      to[2 * i + 1 - begin] = static_cast<float>(blob[i] >> 4);
    }
  } else {
    for (int64_t i = begin; i < end; ++i) to[i - begin] = static_cast<float>(read_bits(blob, i, w.bits));
  }
}

void pack_weights(const Operand<float>& from, int64_t first, int64_t count, int64_t width, int64_t begin, int64_t depth,
                  float* to) {
  const Weights& w = *static_cast<const Weights*>(from.context);
  if (count < width) std::fill_n(to, width * depth, 0.0f);
  constexpr int64_t kPiece = 64;
  float values[kPiece];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t line = first + i;
    for (int64_t p = begin; p < begin + depth;) {
      const int64_t block = p / w.block_size;
      const int64_t end = std::min({begin + depth, (block + 1) * w.block_size, p + kPiece});
      unpack(w, w.bytes + (line * w.blocks + block) * w.blob_bytes, p - block * w.block_size,
             end - block * w.block_size, values);
      if (w.groups == nullptr) {
        const float scale = w.scales[line * w.blocks + block], zero = zero_of(w, line, block);
        for (int64_t q = p; q < end; ++q) to[(q - begin) * width + i] = (values[q - p] - zero) * scale;
      } else {
        for (int64_t q = p; q < end; ++q) {
          const int64_t group = w.groups[q];
          to[(q - begin) * width + i] = (values[q - p] - zero_of(w, line, group)) * w.scales[line * w.blocks + group];
        }
      }
      p = end;
    }
  }
}

struct Sizes {
  int64_t k, n, block_size, blocks;
  int bits;
};
template <typename Context>
Sizes read_sizes(const Context& context) {
  const Node& node = context.node();
  Sizes sizes{node.get_int("K", 0), node.get_int("N", 0), node.get_int("block_size", 0), 0, 4};
  const int64_t bits = node.get_int("bits", 4);
  constexpr int64_t kMax = (int64_t{1} << 31) - 1;
  if (sizes.k < 1 || sizes.n < 1 || sizes.k > kMax || sizes.n > kMax) {
    context.fail("attributes K and N are {} and {}; they have to be in [1, {}]", sizes.k, sizes.n, kMax);
  }
  if (sizes.block_size < 16 || sizes.block_size > kMax || (sizes.block_size & (sizes.block_size - 1)) != 0) {
    context.fail("block_size is {}; a power of two from 16 on is needed", sizes.block_size);
  }
  if (bits < 2 || bits > 8) context.fail("bits is {}; 2 to 8 are allowed", bits);
  if (node.get_int("weight_prepacked", 0) != 0)
    context.fail("weights in a layout of one GPU cannot be read; export them with weight_prepacked = 0");
  sizes.bits = static_cast<int>(bits);
  sizes.blocks = (sizes.k + sizes.block_size - 1) / sizes.block_size;
  return sizes;
}

void infer_matmul_nbits(InferContext& context) {
  const Sizes sizes = read_sizes(context);
  if (context.element(1) != ElementType::kU8 && context.element(1) != ElementType::kUndefined) {
    context.fail("B has to be uint8, not {}", name(context.element(1)));
  }
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  Dims dims = context.dims(0);
  if (dims.empty()) context.fail("A is a scalar");
  if (dims.back().is_known() && dims.back().value() != sizes.k) {
    context.fail("A has {} columns, attribute K says {}", dims.back().value(), sizes.k);
  }
  dims.back() = sizes.n;
  context.set_output(0, context.element(0), std::move(dims));
}

void run_matmul_nbits(RunContext& context) {
  const Sizes sizes = read_sizes(context);
  const Tensor& a = context.input(0);
  if (a.type() != ElementType::kF32) context.fail_type(0);
  auto check = [&](int i, int64_t count) {
    if (context.input(i).count() != count) {
      context.fail("input {} has {} elements and needs {}", i + 1, context.input(i).count(), count);
    }
  };
  Weights w{.blocks = sizes.blocks, .block_size = sizes.block_size, .blob_bytes = sizes.block_size * sizes.bits / 8,
            .zero_bytes = (sizes.blocks * sizes.bits + 7) / 8, .bits = sizes.bits};
  int64_t num_bytes;
  if (__builtin_mul_overflow(sizes.n * sizes.blocks, w.blob_bytes, &num_bytes)) context.fail("B is too large");
  check(1, num_bytes);
  check(2, sizes.n * sizes.blocks);
  if (context.input(1).type() != ElementType::kU8) context.fail_type(1);
  if (context.input(2).type() != ElementType::kF32) context.fail_type(2);
  w.bytes = context.data<uint8_t>(1);
  w.scales = context.data<float>(2);
  if (context.has_input(3)) {
    if (context.input(3).type() == ElementType::kU8) {
      check(3, sizes.n * w.zero_bytes);
      w.packed_zeros = context.data<uint8_t>(3);
    } else if (context.input(3).type() == ElementType::kF32) {
      check(3, sizes.n * sizes.blocks);
      w.zeros = context.data<float>(3);
    } else {
      context.fail_type(3);
    }
  }
  if (context.has_input(4) && context.input(4).count() > 0) {
    if (context.input(4).type() != ElementType::kI32) context.fail_type(4);
    const auto groups = context.input(4).values<int32_t>();
    if (static_cast<int64_t>(groups.size()) < sizes.k)
      context.fail("g_idx has {} elements and needs {}", groups.size(), sizes.k);
    for (const int32_t group : groups) {
      if (group < 0 || group >= sizes.blocks) context.fail("g_idx holds {}; there are {} blocks", group, sizes.blocks);
    }
    w.groups = groups.data();
  }
  Product<float> product{.m = a.count() / sizes.k, .n = sizes.n, .k = sizes.k,
                         .a = strided<float>(a.data<float>(), sizes.k, 1),
                         .b = {.pack = pack_weights, .context = &w},
                         .c = context.output_data<float>(0), .c_stride = sizes.n};
  if (context.has_input(5)) {
    check(5, sizes.n);
    if (context.input(5).type() != ElementType::kF32) context.fail_type(5);
    const float* bias = context.data<float>(5);
    for (int64_t i = 0; i < product.m; ++i) std::copy_n(bias, sizes.n, product.c + i * sizes.n);
    product.adds = true;
  }
  multiply(context.pool(), product);
}

constexpr OpInfo kOps[] = {
    {kMicrosoft, "MatMulNBits", 1, 0, infer_matmul_nbits, run_matmul_nbits, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> matmul_nbits_ops() { return kOps; }

}  // namespace sluice::graph::ops
