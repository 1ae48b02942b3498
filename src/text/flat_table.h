// A hash table from 64-bit keys to small values, built once and then only read: open addressing, linear probing, one
// allocation. The tokenizers look up pairs of token ids in it millions of times a second, which is why it is not a
// std::unordered_map. Reading is safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sluice::text {

template <typename Value>
class FlatTable {
 public:
  FlatTable() = default;

  // Makes room for `count` entries.
  void reserve(size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    if (size > slots_.size()) rehash(size);
  }

  // False, and nothing changes, when the key is there already. REQUIRES: key != UINT64_MAX.
  bool insert(uint64_t key, const Value& value) {
    if ((count_ + 1) * 2 > slots_.size()) rehash(slots_.empty() ? 16 : slots_.size() * 2);
    Slot& slot = slots_[find_slot(key)];
    if (slot.key == key) return false;
    slot = {key, value};
    ++count_;
    return true;
  }

  const Value* find(uint64_t key) const {
    if (count_ == 0) return nullptr;
    const Slot& slot = slots_[find_slot(key)];
    return slot.key == key ? &slot.value : nullptr;
  }

  size_t size() const { return count_; }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;
  struct Slot {
    uint64_t key = kEmpty;
    Value value{};
  };

  size_t find_slot(uint64_t key) const {
    uint64_t hash = key * 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 32;
    size_t mask = slots_.size() - 1, at = static_cast<size_t>(hash) & mask;
    while (slots_[at].key != kEmpty && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }

  void rehash(size_t size) {
    std::vector<Slot> old(size);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.key != kEmpty) slots_[find_slot(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;  // [power of two], at most half full
  size_t count_ = 0;
};

}  // namespace sluice::text
