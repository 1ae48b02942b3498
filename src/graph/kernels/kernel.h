// Fast ways to compute a node whose shapes are known: what the compile step chooses from.
//
// A node may be computed in several layouts and by several algorithms. list_kernels() names them; compile.h decides,
// by time or by rank, and makes those that it takes. A kernel is made once for its shapes, keeps its constants in the
// order it wants them, and afterwards only computes: it allocates nothing and infers nothing. Operators without a
// kernel run by their OpInfo::run.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/thread_pool.h"
#include "graph/ir.h"

namespace sluice::graph {

// The order of a tensor's elements in memory. A shape is always given in the operator's order, [N, C, spatial...].
enum class Layout : uint8_t {
  kPlain,         // as the shape says, the last axis fastest
  kChannelsLast,  // axis 1 fastest: NHWC
  kBlocked16,     // [N, C / 16, spatial..., 16], C rounded up and filled with zeros
};
const char* name(Layout layout);  // "plain", "nhwc", "blocked16"

struct TensorInfo {
  ElementType type = ElementType::kUndefined;
  Shape shape;
  Layout layout = Layout::kPlain;

  bool operator==(const TensorInfo&) const = default;
};
// What the elements take in memory, fill included.
int64_t bytes_of(const TensorInfo& info);
std::string to_string(const TensorInfo& info);  // "float32 1x64x56x56 nhwc"

class Kernel {
 public:
  virtual ~Kernel() = default;
  // One pointer for each input and output of the node, constants included, null for those that are left out.
  // `scratch` has scratch_bytes(), aligned to 64. One thread at a time.
  virtual void run(std::span<const void* const> inputs, std::span<void* const> outputs, void* scratch,
                   ThreadPool& pool) = 0;
  virtual size_t scratch_bytes() const { return 0; }
};

// Constants in the order that kernels want them, shared by all that compile the same model. Any thread.
class PackedWeights {
 public:
  // What make() gives, of that type and shape, made once for a constant and an order that has this name. The constant
  // stays alive.
  Tensor get(const Tensor& constant, const std::string& order, ElementType type, const Shape& shape,
             const std::function<Tensor()>& make);
  struct Entry {
    Tensor constant;
    std::string order;
    Tensor packed;
  };
  std::vector<Entry> list() const;
  // As if get() had made it: from a plan file.
  void put(const Tensor& constant, const std::string& order, Tensor packed);
  int64_t bytes() const;
  // Forgets what was made of constants that nobody else has any more: those of programs that are gone.
  void forget_unused();

 private:
  static std::string key_of(const Tensor& constant, const std::string& order);
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Entry> entries_;
};

struct KernelRequest {
  const Node& node;
  std::span<const TensorInfo> inputs;         // undefined: left out
  std::span<const Tensor* const> constants;   // null: not known before run time
  std::span<const TensorInfo> outputs;
  PackedWeights& weights;
  int num_threads = 1;
};

// A way to compute the node. The layouts are those of its data inputs and of all outputs; of constants and of inputs
// that are no images they are plain.
struct KernelChoice {
  std::string name;  // "conv nhwc", unique within a node
  std::vector<Layout> inputs, outputs;
  std::function<std::unique_ptr<Kernel>()> make;  // may give null: the library has none such
  // An input whose memory output 0 may take if nobody reads it later; -1: none.
  int in_place = -1;
  double handicap = 0;  // microseconds that it counts for if nothing is measured
  bool joins_in_place = false;  // a concatenation whose inputs may lie in its output already
};

// The best first, if nothing is measured. Empty: no kernel.
std::vector<KernelChoice> list_kernels(const KernelRequest& request);

// From one layout to another, `from` and `to` being otherwise the same.
std::unique_ptr<Kernel> make_reorder(const TensorInfo& from, const TensorInfo& to);

// While it lives, the kernels that this thread makes and runs use the threads of that pool.
class KernelThreads {
 public:
  explicit KernelThreads(ThreadPool& pool);
  ~KernelThreads();
  KernelThreads(const KernelThreads&) = delete;
  KernelThreads& operator=(const KernelThreads&) = delete;

 private:
  ThreadPool* before_;
};
// What kernels may use of the processor: "avx512_core_bf16". Plans and timings hold for this one only.
std::string kernel_isa();

}  // namespace sluice::graph
