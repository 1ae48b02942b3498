// RotaryEmbedding, of ONNX (opset 23) and of com.microsoft: the same rotation with the inputs in another order. Caches
// are [positions, rotated / 2] with position ids, or, in ONNX only, [batch, sequence, rotated / 2] without. A position
// outside the cache is an error, in a packed batch too. com.microsoft's `scale` is described nowhere and refused unless
// it is 1.
#include "graph/ops/rotary.h"

#include <algorithm>

#include "graph/ops/ops.h"
#include "graph/ops/shape_limits.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

struct RotaryInputs {
  int x = 0, cosines = 1, sines = 2, positions = 3;
};

struct Layout {
  int64_t batch, heads, rows, size;
  int64_t batch_stride, head_stride, row_stride;
};

bool is_microsoft(const Node& node) { return node.domain == kMicrosoft; }

void infer_rotary(InferContext& ctx) {
  if (ctx.has_rank(0) && ctx.rank(0) != 3 && ctx.rank(0) != 4) {
    ctx.fail("the input has {} dimensions; 3 or 4 are allowed", ctx.rank(0));
  }
  infer_same(ctx);
}

Layout find_layout(const RunContext& ctx, const Tensor& x, int64_t size_by_cache) {
  const int64_t num_heads = ctx.node().get_int("num_heads", 0);
  if (x.rank() == 4) {
    const int64_t heads = x.dim(1), rows = x.dim(2), size = x.dim(3);
    return {x.dim(0), heads, rows, size, heads * rows * size, rows * size, size};
  }
  if (x.rank() != 3) ctx.fail("the input has {} dimensions; 3 or 4 are allowed", x.rank());
  const int64_t hidden = x.dim(2);
  int64_t size = 0;
  if (num_heads > 0) {
    if (hidden % num_heads != 0) ctx.fail("a hidden size of {} is no multiple of num_heads = {}", hidden, num_heads);
    size = hidden / num_heads;
  } else if (is_microsoft(ctx.node()) && ctx.node().get_int("rotary_embedding_dim", 0) == 0) {
    if (size_by_cache <= 0 || hidden % size_by_cache != 0) {
      ctx.fail("a hidden size of {} is no multiple of the head size {} that the cache tells", hidden, size_by_cache);
    }
    size = size_by_cache;
  } else {
    ctx.fail("an input of 3 dimensions needs the attribute num_heads");
  }
  const int64_t heads = size == 0 ? num_heads : hidden / size;
  return {x.dim(0), heads, x.dim(1), size, x.dim(1) * hidden, size, hidden};
}

void run_rotary(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  const bool microsoft = is_microsoft(ctx.node());
  const RotaryInputs at = microsoft ? RotaryInputs{0, 2, 3, 1} : RotaryInputs{};
  if (microsoft && ctx.node().get_float("scale", 1.0f) != 1.0f) ctx.fail("a scale other than 1 is not supported");
  const Tensor& x = ctx.input(at.x);
  const Tensor& cosines = ctx.input(at.cosines);
  const Tensor& sines = ctx.input(at.sines);
  for (int i : {at.x, at.cosines, at.sines}) {
    if (ctx.input(i).type() != ElementType::kF32) ctx.fail_type(i);
  }
  if (!(cosines.shape() == sines.shape())) {
    ctx.fail("the cosines are {} and the sines {}", to_string(cosines.shape()), to_string(sines.shape()));
  }
  const bool has_positions = ctx.has_input(at.positions);
  if (cosines.rank() != (has_positions ? 2 : 3)) {
    ctx.fail("the cosines have to have {} dimensions {} position ids, not {}", has_positions ? 2 : 3,
             has_positions ? "with" : "without", cosines.rank());
  }
  const int64_t half = cosines.shape().back();
  const Layout layout = find_layout(ctx, x, 2 * half);
  const int64_t attribute = ctx.node().get_int("rotary_embedding_dim", 0);
  const int64_t rotated = attribute != 0 ? attribute : microsoft ? 2 * half : layout.size;
  if (rotated < 0 || rotated > layout.size || rotated % 2 != 0) {
    ctx.fail("{} elements of a head of {} cannot be rotated", rotated, layout.size);
  }
  if (half != rotated / 2) ctx.fail("the caches have {} angles a position; {} are rotated", half, rotated / 2);

  if (x.count() == 0) return;
  // Row of the caches for each (batch, row).
  std::vector<int64_t> rows(static_cast<size_t>(layout.batch * layout.rows));
  if (has_positions) {
    const std::vector<int64_t> ids = to_ints(ctx.input(at.positions));
    const bool is_offset = microsoft && ids.size() == 1 && ctx.input(at.positions).rank() <= 1;
    if (!is_offset && ids.size() != rows.size()) {
      ctx.fail("the position ids are {}; they have to be {}x{}", to_string(ctx.input(at.positions).shape()),
               layout.batch, layout.rows);
    }
    const int64_t num_positions = cosines.dim(0);
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t step = is_offset ? static_cast<int64_t>(i) % layout.rows : 0, id = ids[is_offset ? 0 : i];
      if (id < 0 || id >= num_positions || id + step >= num_positions) {
        ctx.fail("position {} is outside caches of {} positions", id, num_positions);
      }
      rows[i] = id + step;
    }
  } else {
    if (cosines.dim(0) != layout.batch || cosines.dim(1) != layout.rows) {
      ctx.fail("caches of {} do not fit a batch of {} with {} positions", to_string(cosines.shape()), layout.batch,
               layout.rows);
    }
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  }

  const bool is_interleaved = ctx.node().get_int("interleaved", 0) != 0;
  const float* from = x.data<float>();
  float* to = make_output(ctx, 0).data<float>();
  const float* cosine = cosines.data<float>();
  const float* sine = sines.data<float>();
  const int64_t num_tasks = layout.batch * layout.rows;
  ctx.pool().parallel_for(num_tasks, std::max<int64_t>(1, 4096 / (layout.heads * layout.size)),
                          [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = i / layout.rows * layout.batch_stride + i % layout.rows * layout.row_stride;
      const int64_t angles = rows[static_cast<size_t>(i)] * half;
      for (int64_t head = 0; head < layout.heads; ++head) {
        const int64_t offset = place + head * layout.head_stride;
        rotate_head(from + offset, to + offset, cosine + angles, sine + angles, rotated, layout.size, is_interleaved);
      }
    }
  });
}

constexpr OpInfo kOps[] = {
    {"", "RotaryEmbedding", 23, 0, infer_rotary, run_rotary, OpInfo::kViaFloat},
    {kMicrosoft, "RotaryEmbedding", 1, 0, infer_rotary, run_rotary, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> rotary_ops() { return kOps; }

}  // namespace sluice::graph::ops
