// MaxPool, AveragePool and GlobalAveragePool through oneDNN, in whatever order their input has.
//
// Left to the operators' own code: indices as a second output, dilations, and AveragePool with ceil_mode where a window
// reaches beyond the pads (the library would count those positions).
#include "graph/kernels/list.h"
#include "graph/kernels/onednn.h"
#include "graph/ops/windows.h"

namespace sluice::graph::kernels {
namespace {

using dnnl::memory;
using onednn::Primitive;

struct Pool {
  dnnl::algorithm algorithm = dnnl::algorithm::pooling_max;
  memory::dims strides, kernel, pads_begin, pads_end;
};

std::unique_ptr<Kernel> make_pool(const KernelRequest& request, const Pool& pool, Layout layout) {
  return onednn::try_make([&]() -> std::unique_ptr<Kernel> {
    TensorInfo x = request.inputs[0], y = request.outputs[0];
    x.layout = y.layout = layout;
    const memory::desc src = onednn::describe(x), dst = onednn::describe(y);
    const dnnl::pooling_forward::desc desc(dnnl::prop_kind::forward_inference, pool.algorithm, src, dst, pool.strides,
                                           pool.kernel, pool.pads_begin, pool.pads_end);
    const dnnl::pooling_forward::primitive_desc primitive_desc(desc, onednn::make_attributes(), onednn::engine());
    if (std::string_view(primitive_desc.impl_info_str()).starts_with("ref")) return nullptr;
    return std::make_unique<Primitive>(
        dnnl::pooling_forward(primitive_desc), primitive_desc.scratchpad_desc(),
        std::vector<Primitive::Argument>{{.name = DNNL_ARG_SRC, .desc = src, .input = 0},
                                         {.name = DNNL_ARG_DST, .desc = dst, .output = 0}});
  });
}

std::vector<KernelChoice> list_layouts(const KernelRequest& request, const Pool& pool) {
  std::vector<KernelChoice> choices;
  for (const Layout layout : {Layout::kChannelsLast, Layout::kBlocked16, Layout::kPlain}) {
    KernelChoice choice{.name = std::string("pool ") + name(layout)};
    choice.inputs = choice.outputs = {layout};
    choice.make = [request, pool, layout] { return make_pool(request, pool, layout); };
    choices.push_back(std::move(choice));
  }
  return choices;
}

bool can_pool(const KernelRequest& request) {
  const int rank = request.inputs[0].shape.rank();
  return rank >= 3 && rank <= 5 && onednn::can_describe(request.inputs[0]) &&
         onednn::can_describe(request.outputs[0]) && request.outputs.size() == 1;
}

}  // namespace

std::vector<KernelChoice> list_pool(const KernelRequest& request) {
  if (!can_pool(request)) return {};
  const Node& node = request.node;
  const Shape& x = request.inputs[0].shape;
  const ops::Windows windows = ops::read_windows(node, x.rank() - 2, std::nullopt, /*is_pool=*/true);
  Pool pool;
  bool reaches_beyond = false, has_pads = false, is_dilated = false;
  for (const ops::WindowAxis& axis : ops::resolve_windows(node, windows, std::span(x.begin() + 2, x.end()))) {
    pool.strides.push_back(axis.stride);
    pool.kernel.push_back(axis.kernel);
    pool.pads_begin.push_back(axis.pad_begin);
    const int64_t reach = axis.begin_of(axis.out - 1) + axis.kernel - axis.in;
    pool.pads_end.push_back(reach);
    reaches_beyond |= reach > axis.pad_end;
    has_pads |= axis.pad_begin > 0 || reach > 0;
    is_dilated |= axis.dilation != 1;
    // The library wants every window to see something.
    if (axis.pad_begin >= axis.kernel || reach >= axis.kernel) return {};
  }
  if (is_dilated) return {};
  if (node.op_type == "AveragePool") {
    const bool counts_pads = node.get_int("count_include_pad", 0) != 0;
    if (counts_pads && reaches_beyond) return {};
    pool.algorithm = counts_pads && has_pads ? dnnl::algorithm::pooling_avg_include_padding
                                             : dnnl::algorithm::pooling_avg_exclude_padding;
  }
  return list_layouts(request, pool);
}

std::vector<KernelChoice> list_global_pool(const KernelRequest& request) {
  if (!can_pool(request)) return {};
  const Shape& x = request.inputs[0].shape;
  Pool pool{.algorithm = dnnl::algorithm::pooling_avg_exclude_padding};
  for (int d = 2; d < x.rank(); ++d) {
    pool.strides.push_back(1);
    pool.kernel.push_back(x[d]);
    pool.pads_begin.push_back(0);
    pool.pads_end.push_back(0);
  }
  return list_layouts(request, pool);
}

}  // namespace sluice::graph::kernels
