// Products of matrices in plain code: C = A * B or C += A * B, over the threads of a pool.
//
// The scheme is the usual one of packed panels (Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication"): a tile of C is computed by a small kernel that keeps it in vector registers and reads A and B from
// copies in the order it wants them. Because operands are read by a function that packs them, B may be anything that
// is a matrix in principle: a convolution's columns, bytes less a zero point, weights of four bits. Tiles of C are the
// tasks of the pool, each with its own copies, so that there is nothing to wait for. T is float, double, uint32_t or
// uint64_t; signed integers are computed as unsigned ones, which wrap around. No state; one job of a pool at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "base/thread_pool.h"
#include "graph/tensor.h"

namespace sluice::graph::ops {

// One side of a product. Its lines are the rows of A, or the columns of B; each has k values.
template <typename T>
struct Operand {
  // Writes lines [first, first + count), values [begin, begin + depth), as `depth` groups of `width` values, one of
  // each line; zeros for lines from `count` on. Must not throw.
  using Pack = void (*)(const Operand& from, int64_t first, int64_t count, int64_t width, int64_t begin, int64_t depth,
                        T* to);
  Pack pack = nullptr;
  const void* data = nullptr;
  int64_t line_stride = 0, value_stride = 0;  // in elements of data
  const int32_t* zero_points = nullptr;       // subtracted; null: none. Of line i: zero_points[i * zero_point_stride]
  int64_t zero_point_stride = 0;
  const void* context = nullptr;              // of other pack functions
};

template <typename T>
struct Product {
  int64_t m = 0, n = 0, k = 0;
  Operand<T> a, b;
  T* c = nullptr;        // [m, n], rows c_stride apart
  int64_t c_stride = 0;
  bool adds = false;     // to what is in c
};

template <typename T, typename Source>
void pack_strided(const Operand<T>& from, int64_t first, int64_t count, int64_t width, int64_t begin, int64_t depth,
                  T* to) {
  const int64_t ls = from.line_stride, vs = from.value_stride;
  const Source* source = static_cast<const Source*>(from.data) + first * ls + begin * vs;
  if (count < width) std::fill_n(to, width * depth, T{});
  if (from.zero_points != nullptr) {
    for (int64_t i = 0; i < count; ++i) {
      const int32_t zero = from.zero_points[(first + i) * from.zero_point_stride];
      for (int64_t p = 0; p < depth; ++p)
        to[p * width + i] = static_cast<T>(static_cast<int32_t>(source[i * ls + p * vs]) - zero);
    }
  } else if (ls == 1) {
    for (int64_t p = 0; p < depth; ++p) {
      for (int64_t i = 0; i < count; ++i) to[p * width + i] = static_cast<T>(source[p * vs + i]);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t p = 0; p < depth; ++p) to[p * width + i] = static_cast<T>(source[i * ls + p * vs]);
    }
  }
}

// Numbers in memory: value p of line i is data[i * line_stride + p * value_stride].
template <typename T, typename Source>
Operand<T> strided(const Source* data, int64_t line_stride, int64_t value_stride, const int32_t* zero_points = nullptr,
                   int64_t zero_point_stride = 0) {
  return {.pack = pack_strided<T, Source>, .data = data, .line_stride = line_stride, .value_stride = value_stride,
          .zero_points = zero_points, .zero_point_stride = zero_point_stride};
}

// sums[j] += the sum over p of factors[p * factor_stride] * rows[p * row_stride + j], for j < n and p < k. On the
// calling thread. T is float or double.
template <typename T>
void add_scaled_rows(int64_t n, int64_t k, const T* factors, int64_t factor_stride, const T* rows, int64_t row_stride,
                     T* sums);

namespace gemm_detail {

// Rows and columns of C that one task computes; what its copies of A and B take.
struct Tiling {
  int64_t rows = 1, columns = 1;
  int64_t row_tiles = 1, column_tiles = 1;
  int64_t scratch_elements = 0;
};
template <typename T>
Tiling plan(int64_t m, int64_t n, int64_t k, int64_t batch, int num_threads);
// One tile of C, on the calling thread.
template <typename T>
void compute(const Product<T>& product, const Tiling& tiling, int64_t row_tile, int64_t column_tile, T* scratch);

}  // namespace gemm_detail

// `count` products of the same m, n and k; product_of(i) gives the i-th. It is called by any thread and must not throw.
template <typename T, typename ProductOf>
void multiply_batch(ThreadPool& pool, int64_t count, int64_t m, int64_t n, int64_t k, ProductOf&& product_of) {
  if (count <= 0 || m <= 0 || n <= 0) return;
  const gemm_detail::Tiling tiling = gemm_detail::plan<T>(m, n, k, count, pool.num_threads());
  const int64_t tiles = tiling.row_tiles * tiling.column_tiles;
  // Threads that would get less than about this many multiplications cost more than they bring.
  constexpr int64_t kMinWork = 1 << 15;
  const int64_t work =
      std::max<int64_t>(1, std::min(m, tiling.rows) * std::min(n, tiling.columns) * std::max<int64_t>(k, 1));
  const int64_t grain = std::max<int64_t>(1, kMinWork / work);
  const int64_t stride = (tiling.scratch_elements + 63) / 64 * 64;
  const Tensor scratch(type_of<T>(),
                       Shape{stride * (count * tiles <= grain ? 1 : pool.num_threads())});
  T* const memory = const_cast<T*>(scratch.data<T>());
  pool.parallel_for(count * tiles, grain, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t tile = i % tiles;
      gemm_detail::compute<T>(product_of(i / tiles), tiling, tile / tiling.column_tiles, tile % tiling.column_tiles,
                              memory + stride * worker);
    }
  });
}

template <typename T>
void multiply(ThreadPool& pool, const Product<T>& product) {
  multiply_batch<T>(pool, 1, product.m, product.n, product.k, [&](int64_t) -> const Product<T>& { return product; });
}

}  // namespace sluice::graph::ops
