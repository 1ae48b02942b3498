// What flows along the edges of a graph at run time: tensors, and sequences, optionals and maps of them.
//
// A Tensor is a type, a shape and a counted reference to memory that others may share: copying one copies no elements.
// Elements are contiguous, the last dimension fastest. Who has just allocated a tensor may write it; afterwards it is
// read-only, unless is_unique() says that nobody else sees it. Buffers come from a BufferPool, which hands the memory
// of dead tensors to new ones, or from a file that is mapped. Any thread may drop a tensor.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "graph/element_type.h"

namespace sluice::graph {

inline constexpr int kMaxRank = 16;

// The dimensions of a tensor, outermost first. No memory of its own: it is copied as freely as an int.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    for (int64_t d : dims) push_back(d);
  }
  explicit Shape(std::span<const int64_t> dims) {
    for (int64_t d : dims) push_back(d);
  }
  explicit Shape(int rank, int64_t value) {
    for (int i = 0; i < rank; ++i) push_back(value);
  }

  int rank() const { return rank_; }
  bool empty() const { return rank_ == 0; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t& operator[](int i) { return dims_[i]; }
  int64_t back() const { return dims_[rank_ - 1]; }
  const int64_t* begin() const { return dims_; }
  const int64_t* end() const { return dims_ + rank_; }
  int64_t* begin() { return dims_; }
  int64_t* end() { return dims_ + rank_; }
  // Throws Error beyond kMaxRank.
  void push_back(int64_t dim);
  void insert(int at, int64_t dim);
  void erase(int at);

  int64_t count() const { return count(0, rank_); }  // elements; 1 if there are no dimensions
  int64_t count(int begin, int end) const {          // product of dimensions [begin, end)
    int64_t product = 1;
    for (int i = begin; i < end; ++i) product *= dims_[i];
    return product;
  }
  bool operator==(const Shape& other) const {
    return rank_ == other.rank_ && std::memcmp(dims_, other.dims_, sizeof(int64_t) * static_cast<size_t>(rank_)) == 0;
  }

 private:
  int rank_ = 0;
  int64_t dims_[kMaxRank];
};
std::string to_string(const Shape& shape);  // "1x3x224x224"; "scalar" if there are no dimensions

// Elements to step over for one step along each dimension.
Shape strides_of(const Shape& shape);

class BufferPool;

// Memory with a count of those who use it. Made by BufferPool or wrap_memory().
struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;
  std::atomic<int> num_users{1};
  bool is_ours = false;                // to free, or to give back to the pool
  std::shared_ptr<BufferPool> pool;    // that it goes back to; null: it is freed
  std::shared_ptr<const void> keeper;  // of memory that is not ours
  std::vector<std::string> strings;    // data points into it
};

class BufferRef {
 public:
  BufferRef() = default;
  explicit BufferRef(Buffer* buffer) : buffer_(buffer) {}  // takes over the count of 1
  BufferRef(const BufferRef& other) : buffer_(other.buffer_) {
    if (buffer_) buffer_->num_users.fetch_add(1, std::memory_order_relaxed);
  }
  BufferRef(BufferRef&& other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
  BufferRef& operator=(BufferRef other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~BufferRef() {
    if (buffer_ && buffer_->num_users.fetch_sub(1, std::memory_order_acq_rel) == 1) release(buffer_);
  }
  Buffer* get() const { return buffer_; }

 private:
  static void release(Buffer* buffer);
  Buffer* buffer_ = nullptr;
};

// Memory of dead tensors, kept for new ones by size. Sizes are rounded up by at most an eighth, so that tensors that
// grow from run to run find some; what is kept and what is in use are together no more than max_bytes, and what is kept
// no more than about what was in use at once. Any thread. Its peak says what a graph needed.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
 public:
  explicit BufferPool(size_t max_bytes = SIZE_MAX) : max_bytes_(max_bytes) {}
  ~BufferPool();
  // At least `bytes`, aligned to 64. Throws Error kResourceExhausted if there are not so many.
  BufferRef allocate(size_t bytes);
  // Throws the same if max_bytes are less: for memory that is not taken from here.
  void check_size(size_t bytes) const;
  size_t bytes_in_use() const;
  size_t peak_bytes() const;

 private:
  friend class BufferRef;
  void take_back(Buffer* buffer);
  const size_t max_bytes_;
  mutable std::mutex mutex_;
  void free_smallest_until(size_t max_kept_bytes);
  std::map<size_t, std::vector<Buffer*>> kept_;  // by size; lists stay when they are empty, to ask for no memory again
  size_t in_use_ = 0, kept_bytes_ = 0, peak_ = 0;
};

class Tensor {
 public:
  Tensor() = default;
  // Memory for the elements, not initialised (strings are empty). Without a pool it is freed after use. Throws Error
  // for negative dimensions and for more bytes than an address has.
  Tensor(ElementType type, const Shape& shape, BufferPool* pool = nullptr);
  // Borrows: `keeper` keeps the memory alive.
  static Tensor wrap(ElementType type, const Shape& shape, const void* data, std::shared_ptr<const void> keeper);
  template <typename T>
  static Tensor scalar(T value) {
    return vector(std::vector<T>{value}, Shape());
  }
  template <typename T>
  static Tensor vector(const std::vector<T>& values) {
    return vector(values, Shape{static_cast<int64_t>(values.size())});
  }
  template <typename T>
  static Tensor vector(const std::vector<T>& values, const Shape& shape) {
    Tensor made(type_of<T>(), shape);
    T* to = made.data<T>();
    for (const auto& value : values) *to++ = value;
    return made;
  }

  bool is_null() const { return type_ == ElementType::kUndefined; }
  ElementType type() const { return type_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * get_info(type_).bytes; }

  // REQUIRES: T is as wide as an element (data<uint16_t> reads the bits of an f16).
  template <typename T>
  T* data() {
    DCHECK(get_info(type_).bytes == static_cast<int>(sizeof(T)), name(type_), sizeof(T));
    return static_cast<T*>(data_);
  }
  template <typename T>
  const T* data() const {
    return const_cast<Tensor*>(this)->data<T>();
  }
  void* raw() { return data_; }
  const void* raw() const { return data_; }
  template <typename T>
  std::span<const T> values() const {
    return {data<T>(), static_cast<size_t>(count_)};
  }

  // The same elements in another shape. REQUIRES: the same count.
  Tensor reshaped(const Shape& shape) const;
  // The same bits as another type of the same width.
  Tensor with_type(ElementType type) const;
  // Elements [begin, begin + shape.count()) as a tensor of their own that shares the memory.
  Tensor slice(int64_t begin, const Shape& shape) const;
  bool is_unique() const {
    const Buffer* buffer = buffer_.get();
    return buffer != nullptr && buffer->num_users.load(std::memory_order_acquire) == 1 && buffer->is_ours;
  }
  Tensor copy(BufferPool* pool = nullptr) const;

 private:
  ElementType type_ = ElementType::kUndefined;
  Shape shape_;
  int64_t count_ = 0;
  void* data_ = nullptr;
  BufferRef buffer_;
};

// Integers of an int32 or int64 tensor (or any other integer type). Throws Error for other types.
std::vector<int64_t> to_ints(const Tensor& tensor);
// "float32 2x3", or with up to `max_values` values "int64 2 = {1, 2}".
std::string to_string(const Tensor& tensor, int max_values = 0);

struct Value;

// Keys are int64 or strings, [n]; values [n] of any type.
struct MapValue {
  Tensor keys, values;
};

// What an edge carries. An optional that holds something is that something; one that holds nothing is kNone, and so is
// an input that was left out.
struct Value {
  enum class Kind : uint8_t { kNone, kTensor, kSequence, kMap };

  Value() = default;
  Value(Tensor t) : kind(Kind::kTensor), tensor(std::move(t)) {}
  explicit Value(std::vector<Value> elements)
      : kind(Kind::kSequence), sequence(std::make_shared<const std::vector<Value>>(std::move(elements))) {}
  explicit Value(MapValue m) : kind(Kind::kMap), map(std::make_shared<const MapValue>(std::move(m))) {}

  bool is_none() const { return kind == Kind::kNone; }

  Kind kind = Kind::kNone;
  Tensor tensor;
  std::shared_ptr<const std::vector<Value>> sequence;
  std::shared_ptr<const MapValue> map;
};

}  // namespace sluice::graph
