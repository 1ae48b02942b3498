// Concat along the channels, in any layout. Inputs that the memory plan put into the output's memory already cost
// nothing.
#include <cstring>

#include "graph/kernels/list.h"

namespace sluice::graph::kernels {
namespace {

class ConcatKernel final : public Kernel {
 public:
  // `rows` times, `bytes[i]` bytes of each input one after the other.
  ConcatKernel(int64_t rows, std::vector<int64_t> bytes) : rows_(rows), bytes_(std::move(bytes)) {
    for (const int64_t b : bytes_) row_bytes_ += b;
  }
  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void*, ThreadPool& pool) override {
    auto* out = static_cast<std::byte*>(outputs[0]);
    int64_t offset = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto* in = static_cast<const std::byte*>(inputs[i]);
      const int64_t bytes = bytes_[i];
      if (in != out + offset && bytes > 0) {
        const int64_t grain = std::max<int64_t>(1, (1 << 16) / bytes);
        pool.parallel_for(rows_, grain, [&](int64_t begin, int64_t end, int) {
          for (int64_t r = begin; r < end; ++r) {
            std::memcpy(out + r * row_bytes_ + offset, in + r * bytes, static_cast<size_t>(bytes));
          }
        });
      }
      offset += bytes;
    }
  }

 private:
  const int64_t rows_;
  const std::vector<int64_t> bytes_;
  int64_t row_bytes_ = 0;
};

}  // namespace

std::vector<KernelChoice> list_concat(const KernelRequest& request) {
  const Shape& y = request.outputs[0].shape;
  const int rank = y.rank();
  int64_t axis = request.node.get_int("axis", 1);
  if (axis < 0) axis += rank;
  if (axis < 0 || axis >= rank) return {};
  const int64_t element = get_info(request.outputs[0].type).bytes;
  std::vector<KernelChoice> choices;
  for (const Layout layout : {Layout::kPlain, Layout::kChannelsLast, Layout::kBlocked16}) {
    if (layout != Layout::kPlain && (axis != 1 || rank < 3 || rank > 5 || !can_reorder(request))) break;
    const int a = static_cast<int>(axis);
    int64_t rows = layout == Layout::kChannelsLast ? y.count() / std::max<int64_t>(1, y[1]) : y.count(0, a);
    std::vector<int64_t> bytes;
    bool fits = y.count() > 0;
    for (const TensorInfo& input : request.inputs) {
      if (input.type == ElementType::kUndefined || input.shape.rank() != rank) return {};
      // A block of fewer than sixteen channels would leave a gap.
      fits &= layout != Layout::kBlocked16 || input.shape[1] % 16 == 0;
      bytes.push_back(element * (layout == Layout::kChannelsLast ? input.shape[1] : input.shape.count(a, rank)));
    }
    if (!fits) continue;
    KernelChoice choice{.name = std::string("concat ") + name(layout)};
    choice.inputs.assign(request.inputs.size(), layout);
    choice.outputs = {layout};
    choice.joins_in_place = rows == 1;
    choice.make = [rows, bytes] { return std::make_unique<ConcatKernel>(rows, bytes); };
    choices.push_back(std::move(choice));
  }
  return choices;
}

}  // namespace sluice::graph::kernels
