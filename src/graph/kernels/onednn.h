// oneDNN as the kernels see it: one engine, a stream for each thread, descriptions of tensors, and primitives that run
// without allocating anything of ours. Included by the files of this folder only.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "base/error.h"
#include "graph/kernels/kernel.h"

namespace sluice::graph::onednn {

const dnnl::engine& engine();

// nullopt: a type that oneDNN has not.
std::optional<dnnl::memory::data_type> type_of(ElementType type);
// The description of a tensor in its layout. REQUIRES: type_of(info.type).
dnnl::memory::desc describe(const TensorInfo& info);
bool can_describe(const TensorInfo& info);

// Without dot products of bytes (VNNI) the library adds pairs of them in 16 bits, which saturate: wrong sums.
bool has_byte_products();
// Below AVX-512 the library (2.6) computes activations other than Relu wrongly inside some convolutions, and bfloat16
// goes through float32 when it is only moved.
bool has_avx512();

// Attributes with the scratch memory ours.
dnnl::primitive_attr make_attributes();

// `constant` as a primitive wants it, kept in `weights`. `source` describes the constant's memory. REQUIRES: within
// try_make(), for the library may not know how to bring it there.
Tensor pack(PackedWeights& weights, const Tensor& constant, const dnnl::memory::desc& source,
            const dnnl::memory::desc& target);

// One primitive, its arguments bound to the node's inputs and outputs.
class Primitive final : public Kernel {
 public:
  struct Argument {
    int name;                 // DNNL_ARG_SRC
    dnnl::memory::desc desc;
    int input = -1, output = -1;  // of the node; neither: `constant`
    Tensor constant;
  };
  // `primitive_desc` tells the scratch memory.
  Primitive(dnnl::primitive primitive, const dnnl::memory::desc& scratch, std::vector<Argument> arguments);
  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void* scratch,
           ThreadPool& pool) override;
  size_t scratch_bytes() const override { return scratch_bytes_; }

 private:
  dnnl::primitive primitive_;
  std::vector<Argument> arguments_;
  std::vector<dnnl::memory> memories_;
  std::vector<const void*> bound_;
  std::vector<dnnl_exec_arg_t> exec_args_;
  dnnl::memory scratch_;
  size_t scratch_bytes_ = 0;
};

// The activation that a fused node names, as the next post-operation; false if oneDNN has none such.
bool append_activation(dnnl::post_ops& post_ops, const Node& node);

// Runs body(); what the library throws comes as our Error.
template <typename Body>
auto guard(Body&& body) {
  try {
    return body();
  } catch (const dnnl::error& error) {
    fail(error.status == dnnl_out_of_memory ? Code::kResourceExhausted : Code::kInternal, "oneDNN: {}", error.what());
  }
}

// Runs make(), null where oneDNN has no such primitive. Some that it offers it then fails to assemble; the node has
// other ways, at least the operator's own code.
template <typename Make>
std::unique_ptr<Kernel> try_make(Make&& make) {
  try {
    return make();
  } catch (const dnnl::error&) {
    return nullptr;
  }
}

}  // namespace sluice::graph::onednn
