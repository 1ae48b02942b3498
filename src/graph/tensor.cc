#include "graph/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "base/error.h"

namespace sluice::graph {
namespace {

constexpr ElementInfo kInfo[kNumElementTypes] = {
    {"undefined", 0, 0},      {"float32", 4, 32},   {"uint8", 1, 8},
    {"int8", 1, 8},           {"uint16", 2, 16},    {"int16", 2, 16},
    {"int32", 4, 32},         {"int64", 8, 64},     {"string", sizeof(std::string), 0},
    {"bool", 1, 8},           {"float16", 2, 16},   {"float64", 8, 64},
    {"uint32", 4, 32},        {"uint64", 8, 64},    {"complex64", 8, 64},
    {"complex128", 16, 128},  {"bfloat16", 2, 16},  {"float8e4m3fn", 1, 8},
    {"float8e4m3fnuz", 1, 8}, {"float8e5m2", 1, 8}, {"float8e5m2fnuz", 1, 8},
    {"uint4", 1, 4},          {"int4", 1, 4},       {"float4e2m1", 1, 4},
    {"float8e8m0", 1, 8},     {"uint2", 1, 2},      {"int2", 1, 2},
};

constexpr size_t kAlignment = 64;

constexpr size_t kAlwaysKeptBytes = size_t{64} << 20;

size_t round_up(size_t bytes, size_t step) { return (std::max<size_t>(bytes, 1) + step - 1) / step * step; }

// To steps of an eighth of the power of two below.
size_t round_size(size_t bytes) { return round_up(bytes, std::max(kAlignment, std::bit_floor(bytes) / 8)); }

void* allocate_memory(size_t bytes) {
  void* data = std::aligned_alloc(kAlignment, bytes);
  if (data == nullptr) fail(Code::kResourceExhausted, "no memory for a tensor of {} bytes", bytes);
  return data;
}

}  // namespace

const ElementInfo& get_info(ElementType type) { return kInfo[static_cast<size_t>(type)]; }

void Shape::push_back(int64_t dim) {
  if (rank_ == kMaxRank) {
    fail(Code::kInvalidArgument, "a tensor of more than {} dimensions; no more are supported", kMaxRank);
  }
  dims_[rank_++] = dim;
}

void Shape::insert(int at, int64_t dim) {
  push_back(dim);
  std::rotate(dims_ + at, dims_ + rank_ - 1, dims_ + rank_);
}

void Shape::erase(int at) {
  std::copy(dims_ + at + 1, dims_ + rank_, dims_ + at);
  --rank_;
}

std::string to_string(const Shape& shape) {
  return shape.empty() ? "scalar" : fmt::format("{}", fmt::join(shape.begin(), shape.end(), "x"));
}

Shape strides_of(const Shape& shape) {
  Shape strides(shape.rank(), 1);
  for (int i = shape.rank() - 2; i >= 0; --i) strides[i] = strides[i + 1] * shape[i + 1];
  return strides;
}

void BufferRef::release(Buffer* buffer) {
  if (buffer->pool != nullptr) {
    const std::shared_ptr<BufferPool> pool = std::move(buffer->pool);  // it may be the last that keeps the pool
    pool->take_back(buffer);
    return;
  }
  if (buffer->is_ours && buffer->strings.empty()) std::free(buffer->data);
  delete buffer;
}

BufferPool::~BufferPool() { free_smallest_until(0); }

void BufferPool::check_size(size_t bytes) const {
  if (bytes > max_bytes_) {
    fail(Code::kResourceExhausted, "a tensor of {} bytes does not fit into {}", bytes, max_bytes_);
  }
}

BufferRef BufferPool::allocate(size_t bytes) {
  check_size(bytes);
  bytes = round_size(bytes);
  const std::lock_guard lock(mutex_);
  Buffer* found = nullptr;
  for (auto at = kept_.lower_bound(bytes); at != kept_.end() && at->first < 2 * bytes && found == nullptr; ++at) {
    if (at->second.empty()) continue;
    found = at->second.back();
    at->second.pop_back();
    kept_bytes_ -= found->bytes;
  }
  if (found == nullptr) {
    const size_t room = max_bytes_ - std::min(max_bytes_, in_use_);
    if (bytes > room - std::min(room, kept_bytes_)) free_smallest_until(room - std::min(room, bytes));
    if (bytes > room) {
      fail(Code::kResourceExhausted, "a tensor of {} bytes does not fit: {} of {} bytes are in use", bytes, in_use_,
           max_bytes_);
    }
    auto made = std::make_unique<Buffer>();
    made->data = allocate_memory(bytes);
    made->bytes = bytes;
    made->is_ours = true;
    found = made.release();
  }
  found->num_users.store(1, std::memory_order_relaxed);
  found->pool = shared_from_this();
  in_use_ += found->bytes;
  peak_ = std::max(peak_, in_use_);
  return BufferRef(found);
}

void BufferPool::take_back(Buffer* buffer) {
  const std::lock_guard lock(mutex_);
  in_use_ -= buffer->bytes;
  kept_bytes_ += buffer->bytes;
  kept_[buffer->bytes].push_back(buffer);
  if (kept_bytes_ > peak_ + kAlwaysKeptBytes) free_smallest_until(peak_);
}

void BufferPool::free_smallest_until(size_t max_kept_bytes) {
  for (auto& [bytes, list] : kept_) {
    while (!list.empty() && kept_bytes_ > max_kept_bytes) {
      std::free(list.back()->data);
      delete list.back();
      list.pop_back();
      kept_bytes_ -= bytes;
    }
  }
}

size_t BufferPool::bytes_in_use() const {
  const std::lock_guard lock(mutex_);
  return in_use_;
}

size_t BufferPool::peak_bytes() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

Tensor::Tensor(ElementType type, const Shape& shape, BufferPool* pool) : type_(type), shape_(shape) {
  int64_t count = 1, bytes = 0;
  bool has_zero = false, is_too_large = false;
  for (const int64_t dim : shape) {
    if (dim < 0) fail(Code::kInvalidArgument, "a tensor of shape {}: a dimension is negative", to_string(shape));
    has_zero |= dim == 0;
    is_too_large |= __builtin_mul_overflow(count, std::max<int64_t>(dim, 1), &count);
  }
  is_too_large |= __builtin_mul_overflow(count, get_info(type).bytes, &bytes) || bytes > (int64_t{1} << 46);
  if (has_zero) {
    count = bytes = 0;
  } else if (is_too_large) {
    fail(Code::kInvalidArgument, "a tensor {} of shape {} is too large for memory", name(type), to_string(shape));
  }
  count_ = count;
  if (type != ElementType::kString && pool != nullptr) {
    buffer_ = pool->allocate(static_cast<size_t>(bytes));
  } else {
    auto buffer = std::make_unique<Buffer>();
    buffer->is_ours = true;
    if (type == ElementType::kString) {
      if (pool != nullptr) pool->check_size(static_cast<size_t>(bytes));
      try {
        buffer->strings.resize(static_cast<size_t>(std::max<int64_t>(count, 1)));
      } catch (const std::exception&) {  // bad_alloc or length_error
        fail(Code::kResourceExhausted, "no memory for a tensor of {} strings", count);
      }
      buffer->data = buffer->strings.data();
    } else {
      buffer->bytes = round_up(static_cast<size_t>(bytes), kAlignment);
      buffer->data = allocate_memory(buffer->bytes);
    }
    buffer_ = BufferRef(buffer.release());
  }
  data_ = buffer_.get()->data;
}

Tensor Tensor::wrap(ElementType type, const Shape& shape, const void* data, std::shared_ptr<const void> keeper) {
  Tensor made;
  made.type_ = type;
  made.shape_ = shape;
  made.count_ = shape.count();
  made.data_ = const_cast<void*>(data);
  auto* buffer = new Buffer;
  buffer->data = made.data_;
  buffer->keeper = std::move(keeper);
  made.buffer_ = BufferRef(buffer);
  return made;
}

Tensor Tensor::reshaped(const Shape& shape) const {
  CHECK(shape.count() == count_, to_string(shape), count_);
  Tensor made = *this;
  made.shape_ = shape;
  return made;
}

Tensor Tensor::with_type(ElementType type) const {
  CHECK(get_info(type).bytes == get_info(type_).bytes, graph::name(type), graph::name(type_));
  Tensor made = *this;
  made.type_ = type;
  return made;
}

Tensor Tensor::slice(int64_t begin, const Shape& shape) const {
  CHECK(begin >= 0 && begin + shape.count() <= count_, begin, to_string(shape), count_);
  Tensor made = *this;
  made.shape_ = shape;
  made.count_ = shape.count();
  made.data_ = static_cast<uint8_t*>(data_) + begin * get_info(type_).bytes;
  return made;
}

Tensor Tensor::copy(BufferPool* pool) const {
  Tensor made(type_, shape_, pool);
  if (type_ == ElementType::kString) {
    std::copy_n(data<std::string>(), count_, made.data<std::string>());
  } else if (count_ > 0) {
    std::memcpy(made.data_, data_, static_cast<size_t>(bytes()));
  }
  return made;
}

std::vector<int64_t> to_ints(const Tensor& tensor) {
  std::vector<int64_t> values(static_cast<size_t>(tensor.count()));
  auto copy = [&](auto zero) {
    using T = decltype(zero);
    const T* from = tensor.data<T>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int64_t>(from[i]);
  };
  if (!dispatch_integers(tensor.type(), copy) && !dispatch<bool>(tensor.type(), copy)) {
    fail(Code::kInvalidArgument, "integers are needed here, not {}", name(tensor.type()));
  }
  return values;
}

std::string to_string(const Tensor& tensor, int max_values) {
  std::string text = fmt::format("{} {}", name(tensor.type()), to_string(tensor.shape()));
  if (max_values <= 0) return text;
  const int64_t shown = std::min<int64_t>(tensor.count(), max_values);
  std::string values;
  auto add = [&](auto zero) {
    using T = decltype(zero);
    const T* from = tensor.data<T>();
    for (int64_t i = 0; i < shown; ++i) values += fmt::format("{}{}", i == 0 ? "" : ", ", from[i]);
  };
  if (!dispatch_numbers(tensor.type(), add) && !dispatch<bool, std::string>(tensor.type(), add)) return text;
  return fmt::format("{} = {{{}{}}}", text, values, shown < tensor.count() ? ", ..." : "");
}

}  // namespace sluice::graph
