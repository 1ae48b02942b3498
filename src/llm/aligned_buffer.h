// Memory that a step computes in: aligned to cache lines or to more, grown when a larger batch comes and kept, never
// shrunk, contents not kept when it grows. Owned by one Transformer; growing belongs to the engine
// thread, filling to anyone it asks. No memory to grow is an Error, which ends the requests of that
// step and leaves the buffer empty but usable.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "base/error.h"

namespace sluice::llm {

template <typename T, int64_t kAlignment = 64>
class AlignedBuffer {
 public:
  T* data() { return memory_.get(); }
  const T* data() const { return memory_.get(); }
  int64_t capacity() const { return capacity_; }

  void grow(int64_t count) {
    if (count <= capacity_) return;
    int64_t rounded = (count + kAlignment - 1) / kAlignment * kAlignment;
    memory_.reset();  // first, so that old and new are never held together
    capacity_ = 0;
    size_t bytes = static_cast<size_t>(rounded) * sizeof(T);
    memory_.reset(
        static_cast<T*>(::operator new (bytes, std::align_val_t{kAlignment}, std::nothrow)));
    if (memory_ == nullptr) {
      fail(Code::kResourceExhausted,
           "no memory for {} MiB of activations; lower --max-num-batched-tokens", bytes >> 20);
    }
    capacity_ = rounded;
  }

 private:
  struct Free {
    void operator()(T* memory) const { ::operator delete (memory, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t capacity_ = 0;
};

}  // namespace sluice::llm
