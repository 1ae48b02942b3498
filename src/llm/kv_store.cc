#include "llm/kv_store.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/error.h"

namespace sluice::llm {
namespace {

int64_t head_page_bytes(const KvLayout& layout) {
  return kernels::kPageSize * row_bytes(layout.type, layout.head_dim);
}

}  // namespace

int64_t KvLayout::page_bytes() const {
  return int64_t{2} * num_layers * num_kv_heads * head_page_bytes(*this);
}

KvStore::KvStore(const KvLayout& layout, int64_t num_pages)
    : layout_(layout), num_pages_(num_pages) {
  CHECK(layout.num_layers > 0 && layout.num_kv_heads > 0 && layout.head_dim > 0, layout.num_layers,
        layout.num_kv_heads, layout.head_dim);
  if (num_pages < 1 || num_pages > INT32_MAX) {
    fail(Code::kInvalidArgument,
         "KV memory of {} pages: expected 1 to {}; change the KV cache memory", num_pages,
         INT32_MAX);
  }
  head_page_bytes_ = head_page_bytes(layout);
  int64_t bytes;
  if (__builtin_mul_overflow(layout.page_bytes(), num_pages, &bytes)) {
    fail(Code::kResourceExhausted, "KV memory of {} pages of {} bytes is too large", num_pages,
         layout.page_bytes());
  }
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fail(Code::kResourceExhausted,
         "KV memory: cannot reserve {:.1f} MiB ({}); lower the KV cache memory",
         static_cast<double>(bytes) / (1 << 20), std::strerror(errno));
  }
  madvise(memory, static_cast<size_t>(bytes),
          MADV_HUGEPAGE);  // only a wish: fewer TLB misses where it is granted
  memory_ = static_cast<uint8_t*>(memory);
}

KvStore::~KvStore() { munmap(memory_, static_cast<size_t>(layout_.page_bytes() * num_pages_)); }

void* KvStore::key_page(int layer, int32_t page, int kv_head) const {
  DCHECK(layer >= 0 && layer < layout_.num_layers && page >= 0 && page < num_pages_ &&
             kv_head < layout_.num_kv_heads,
         layer, page, kv_head);
  int64_t index = ((int64_t{layer} * num_pages_ + page) * 2) * layout_.num_kv_heads + kv_head;
  return memory_ + index * head_page_bytes_;
}

void* KvStore::value_page(int layer, int32_t page, int kv_head) const {
  return static_cast<uint8_t*>(key_page(layer, page, kv_head)) +
         layout_.num_kv_heads * head_page_bytes_;
}

void KvStore::copy_page(int32_t from, int32_t to) {
  CHECK(from >= 0 && from < num_pages_ && to >= 0 && to < num_pages_ && from != to, from, to,
        num_pages_);
  size_t bytes = static_cast<size_t>(2 * layout_.num_kv_heads * head_page_bytes_);
  for (int layer = 0; layer < layout_.num_layers; ++layer)
    std::memcpy(key_page(layer, to, 0), key_page(layer, from, 0), bytes);
}

}  // namespace sluice::llm
