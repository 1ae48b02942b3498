// The memory behind KV pages: for every layer, page and key/value head, kPageSize rows of keys and of
// values. Which page belongs to whom is the engine's business (engine/block_manager.h); this class only
// knows where a page lies. Owned by the loaded model's engine; the engine thread writes, kernel threads
// read during a step.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "kernels/kernels.h"

namespace sluice::llm {

struct KvLayout {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;           // of keys and of values
  DType type = DType::kF16;   // kF32, kF16, kBF16 or kQ8_0
  int64_t page_bytes() const; // all layers, keys and values, of one page
};

class KvStore {
 public:
  // Reserves address space for `num_pages`; memory is touched when a page is first written. Throws Error if refused.
  KvStore(const KvLayout& layout, int64_t num_pages);
  ~KvStore();
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;

  const KvLayout& layout() const { return layout_; }
  int64_t num_pages() const { return num_pages_; }
  // Values: [kPageSize, head_dim] in layout().type. Keys: [head_dim, kPageSize], see kernels/attention.h.
  void* key_page(int layer, int32_t page, int kv_head) const;
  void* value_page(int layer, int32_t page, int kv_head) const;
  void copy_page(int32_t from, int32_t to);

 private:
  KvLayout layout_;
  int64_t num_pages_ = 0;
  int64_t head_page_bytes_ = 0;  // one kv head, keys or values, of one page
  uint8_t* memory_ = nullptr;    // [num_layers, num_pages, 2, num_kv_heads, head_page_bytes]
};

}  // namespace sluice::llm
