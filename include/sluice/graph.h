// Neural networks from ONNX and TensorFlow Lite files, or from plans, inside your own program.
//
// GraphModel is a loaded model: plain to copy, since copies share it, and for any thread. GraphInstance runs one; it
// has threads and memory of its own, belongs to one thread at a time, and several of them share the model's weights.
// Inputs are borrowed for the length of a run, outputs are yours and outlive the instance and the model.
// Whatever goes wrong with a file or with inputs is thrown as sluice::Error, whose code() says which kind it is:
// kNotFound for files that are not there, kInvalidArgument for what is malformed or does not fit,
// kFailedPrecondition for a plan of another version or processor (rebuild_graph_plan() helps), kUnimplemented for what
// this API does not carry, kResourceExhausted at a memory limit. After an Error an instance can be used as before.
// Nothing is printed.
//
//   sluice::GraphModel model = sluice::GraphModel::load("resnet50.onnx");
//   sluice::GraphInstance instance(model, {.num_threads = 4});
//   std::vector<float> pixels(3 * 224 * 224);
//   auto outputs = instance.run({sluice::GraphInput::of<float>("input", {1, 3, 224, 224}, pixels)});
//   std::span<const float> scores = outputs[0].values<float>();
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "sluice/error.h"
#include "sluice/version.h"

namespace sluice {

// The type of a tensor's elements, with ONNX's numbers (TensorProto.DataType). In memory: float16, bfloat16 and the
// 8-bit floats are their bits; bool is a byte of 0 or 1; types of less than a byte take a byte an element, signed ones
// sign-extended; strings are std::string objects.
enum class TensorType : uint8_t {
  kUndefined = 0,  // not known before a run, or not a tensor
  kFloat32 = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kFloat64 = 11,
  kUint32 = 12,
  kUint64 = 13,
  kComplex64 = 14,
  kComplex128 = 15,
  kBFloat16 = 16,
  kFloat8E4M3FN = 17,
  kFloat8E4M3FNUZ = 18,
  kFloat8E5M2 = 19,
  kFloat8E5M2FNUZ = 20,
  kUint4 = 21,
  kInt4 = 22,
  kFloat4E2M1 = 23,
  kFloat8E8M0 = 24,
  kUint2 = 25,
  kInt2 = 26,
};
const char* name(TensorType type);  // "float32", as NumPy says it
// Bytes of one element in memory; 0 for kUndefined and kString.
size_t bytes_of(TensorType type);

// The TensorType of a C++ type; half floats have none and go by their bits (uint16_t, named explicitly).
template <typename T>
constexpr TensorType tensor_type_of() {
  if constexpr (std::is_same_v<T, float>) return TensorType::kFloat32;
  else if constexpr (std::is_same_v<T, double>) return TensorType::kFloat64;
  else if constexpr (std::is_same_v<T, bool>) return TensorType::kBool;
  else if constexpr (std::is_same_v<T, std::string>) return TensorType::kString;
  else if constexpr (std::is_same_v<T, int8_t>) return TensorType::kInt8;
  else if constexpr (std::is_same_v<T, uint8_t>) return TensorType::kUint8;
  else if constexpr (std::is_same_v<T, int16_t>) return TensorType::kInt16;
  else if constexpr (std::is_same_v<T, uint16_t>) return TensorType::kUint16;
  else if constexpr (std::is_same_v<T, int32_t>) return TensorType::kInt32;
  else if constexpr (std::is_same_v<T, uint32_t>) return TensorType::kUint32;
  else if constexpr (std::is_same_v<T, int64_t>) return TensorType::kInt64;
  else if constexpr (std::is_same_v<T, uint64_t>) return TensorType::kUint64;
  else return TensorType::kUndefined;
}

// One dimension that a model declares.
struct GraphDim {
  int64_t size = -1;   // -1: any
  std::string symbol;  // of one that takes any size: "batch", "2*length + 1", or empty if it has no name
};

// What a model says of an input or an output.
struct GraphPort {
  std::string name;
  TensorType type = TensorType::kUndefined;
  std::optional<std::vector<GraphDim>> dims;  // outermost first; nullopt: not even the rank is known
  bool is_optional = false;                   // an input that has a default, or may be left out
  std::string description;                    // "float32 [batch x 3 x 224 x 224]"; also of what is no tensor
};

// A tensor to run with, in memory of the caller, who leaves it as it is while run() runs.
struct GraphInput {
  std::string name;
  TensorType type = TensorType::kUndefined;
  std::vector<int64_t> dims;   // outermost first; empty: a scalar
  const void* data = nullptr;  // [dims], contiguous, the last dimension fastest
  size_t bytes = 0;            // at `data`: exactly the product of dims times bytes_of(type) (or sizeof(std::string))

  template <typename T>
  static GraphInput of(std::string name, std::vector<int64_t> dims, std::span<const T> values) {
    static_assert(tensor_type_of<T>() != TensorType::kUndefined, "no tensor has elements of this type");
    return {std::move(name), tensor_type_of<T>(), std::move(dims), values.data(), values.size_bytes()};
  }
};

// A tensor that a run gave. Copies share its memory, which nobody writes any more; any thread may read and drop it.
class GraphOutput {
 public:
  GraphOutput() = default;
  const std::string& name() const { return name_; }
  TensorType type() const { return type_; }
  const std::vector<int64_t>& dims() const { return dims_; }  // outermost first; empty: a scalar
  const void* data() const { return data_; }                  // [dims], contiguous
  size_t bytes() const { return bytes_; }                     // of strings: of the std::string objects
  // Throws Error if the elements are of another type. float16 and bfloat16 are uint16_t.
  template <typename T>
  std::span<const T> values() const {
    const bool is_half = std::is_same_v<T, uint16_t> &&
                         (type_ == TensorType::kFloat16 || type_ == TensorType::kBFloat16);
    if (!is_half && type_ != tensor_type_of<T>()) fail_type(tensor_type_of<T>());
    return {static_cast<const T*>(data_), bytes_ / sizeof(T)};
  }

 private:
  friend class GraphInstance;
  [[noreturn]] void fail_type(TensorType asked) const;

  std::string name_;
  TensorType type_ = TensorType::kUndefined;
  std::vector<int64_t> dims_;
  const void* data_ = nullptr;
  size_t bytes_ = 0;
  std::shared_ptr<const void> keeper_;
};

// In what products are computed; sums inside them are float32 in any case. Quantised models carry their int8 in
// themselves and run as kFloat32.
enum class GraphPrecision : uint8_t { kFloat32, kBFloat16 };

// Sizes of inputs, by name.
using GraphShapes = std::map<std::string, std::vector<int64_t>>;

class GraphModel {
 public:
  // Reads an ONNX or TFLite file and simplifies it, or loads a plan; which of them it is shows in the file. Throws
  // Error, for a model that cannot be run with all reasons.
  static GraphModel load(const std::string& path);
  // The same of a .onnx or .tflite file in memory, which is not needed afterwards; external data cannot be read.
  static GraphModel load(std::span<const std::byte> bytes);

  const std::vector<GraphPort>& inputs() const;
  const std::vector<GraphPort>& outputs() const;
  bool is_plan() const;
  // "pytorch 1.13.1", as the file says it; empty if it does not.
  const std::string& producer() const;
  // What the file holds besides, such as names of classes.
  const std::map<std::string, std::string>& metadata() const;

 private:
  friend class GraphInstance;
  struct Impl;
  GraphModel() = default;
  std::shared_ptr<const Impl> impl_;
};

struct GraphInstanceOptions {
  int num_threads = 0;                      // that compute, run()'s own among them; 0: a plan's, otherwise the cores
  std::optional<GraphPrecision> precision;  // none: a plan's, otherwise float32; a plan takes no other than its own
  bool tunes = true;             // measures kernels at the first run of new shapes; plans know, and never do
  size_t max_bytes = SIZE_MAX;   // of tensors alive at once, weights not counted
  uint64_t seed = 0;             // of operators that draw random numbers
};

class GraphInstance {
 public:
  using Options = GraphInstanceOptions;
  explicit GraphInstance(GraphModel model, Options options = {});
  ~GraphInstance();
  GraphInstance(GraphInstance&&) noexcept;
  GraphInstance& operator=(GraphInstance&&) noexcept;

  // Makes what a run with these sizes needs (compiled code, packed weights), which the first such run would do; up to
  // 16 combinations of sizes are kept. Inputs that are not named have what the model declares, with 1 for dimensions
  // that it leaves open. Throws Error.
  struct Prepared {
    size_t num_steps = 0;          // kernels in a run
    int64_t activation_bytes = 0;  // of the block of memory for everything between inputs and outputs
  };
  Prepared prepare(const GraphShapes& shapes);

  // Inputs in any order; those with a default may be missing. Gives one output for each of model().outputs(), in that
  // order. Throws Error naming the input, dimension or node at fault.
  std::vector<GraphOutput> run(std::span<const GraphInput> inputs);
  std::vector<GraphOutput> run(std::initializer_list<GraphInput> inputs) {
    return run(std::span<const GraphInput>(inputs.begin(), inputs.size()));
  }

  const GraphModel& model() const;
  int num_threads() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Sizes that a plan is for: least, usual (which kernels are chosen for) and largest. min and max may be left empty, for
// opt alone.
struct GraphProfile {
  GraphShapes min, opt, max;
};

struct GraphPlanOptions {
  GraphPrecision precision = GraphPrecision::kFloat32;
  bool stores_half_floats = false;  // weights as float16 in the file; float32 only
  std::vector<GraphProfile> profiles;  // inputs have to fit one of them; none: whatever the model takes
  int num_threads = 0;                 // that it is tuned for; 0: the cores
  bool tunes = true;                   // measure kernels
};

// Writes the plan of an ONNX or TFLite file; the file appears whole or not at all. It holds for this version of sluice
// and this processor's instruction set. Throws Error. int8 is made by `sluice optimize --precision int8`, which
// calibrates; its plans, and quantised ONNX files, load here like others.
void build_graph_plan(const std::string& model, const std::string& plan, const GraphPlanOptions& options = {});
// Builds a plan anew that another version or processor made, or that is damaged, out of the model inside it, and puts
// it in its place. Throws Error if that model is damaged too.
void rebuild_graph_plan(const std::string& plan);

}  // namespace sluice
