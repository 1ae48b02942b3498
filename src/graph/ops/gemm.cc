// The kernels under gemm.h, once for each width of vectors, and the loops around them.
//
// A kernel is one function over GCC's vector types, inlined into three of different instruction sets; which one runs is
// asked of the processor once. Tiles of C have 12 x 32 floats with 512 bit vectors, 6 x 16 with 256 and 4 x 8 with 128:
// as many sums as registers hold beside one row of B. Up to three rows of A are not worth a copy of B; they are
// multiplied with B where it lies, which is what a decoder's or a classifier's single row needs.
#include "graph/ops/gemm.h"

#include <cstring>

#include "graph/kernels/isa.h"

namespace sluice::graph::ops {
namespace {

// Values of k in one copy: a column of B's panel stays in the first cache.
constexpr int64_t kDepth = 256;
constexpr int64_t kMaxRows = 480, kMaxColumns = 512;
constexpr int64_t kFewRows = 3, kFewRowsColumns = 2048;
constexpr int64_t kMaxTileElements = 12 * 64;

template <typename T>
struct Kernel {
  int64_t rows, columns;
  // c [rows, columns] = (or, if `adds`, +=) a [depth, rows], transposed, * b [depth, columns]
  void (*tile)(int64_t depth, const T* a, const T* b, T* c, int64_t c_stride, bool adds);
  // c [columns of b] += a [k] * b; rows of b are `b_stride` apart.
  void (*row)(int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b, int64_t b_stride, T* c);
  // The sum of a[p] * b[p].
  T (*dot)(int64_t k, const T* a, const T* b);
};

template <typename T, int kBytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));
};

template <typename T, int kBytes, int kRows>
[[gnu::always_inline]] inline void multiply_tile(int64_t depth, const T* a, const T* b, T* c, int64_t c_stride,
                                                 bool adds) {
  using Vector = typename VectorOf<T, kBytes>::type;
  constexpr int kLanes = kBytes / sizeof(T);
  Vector sums[kRows][2];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) sums[i][0] = sums[i][1] = Vector{};
  for (int64_t p = 0; p < depth; ++p) {
    const Vector b0 = *reinterpret_cast<const Vector*>(b), b1 = *reinterpret_cast<const Vector*>(b + kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      sums[i][0] += a[i] * b0;
      sums[i][1] += a[i] * b1;
    }
    a += kRows;
    b += 2 * kLanes;
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    Vector* to0 = reinterpret_cast<Vector*>(c + i * c_stride);
    Vector* to1 = reinterpret_cast<Vector*>(c + i * c_stride + kLanes);
    if (adds) {
      *to0 += sums[i][0];
      *to1 += sums[i][1];
    } else {
      *to0 = sums[i][0];
      *to1 = sums[i][1];
    }
  }
}

template <typename T, int kBytes>
[[gnu::always_inline]] inline void multiply_row(int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b,
                                                int64_t b_stride, T* c) {
  using Vector = typename VectorOf<T, kBytes>::type;
  constexpr int kLanes = kBytes / sizeof(T);
  int64_t j = 0;
  for (; j + 4 * kLanes <= n; j += 4 * kLanes) {
    Vector sums[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[v] = *reinterpret_cast<const Vector*>(c + j + v * kLanes);
    for (int64_t p = 0; p < k; ++p) {
      const T* from = b + p * b_stride + j;
      const T factor = a[p * a_stride];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sums[v] += factor * *reinterpret_cast<const Vector*>(from + v * kLanes);
    }
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) *reinterpret_cast<Vector*>(c + j + v * kLanes) = sums[v];
  }
  for (; j + kLanes <= n; j += kLanes) {
    Vector sum = *reinterpret_cast<const Vector*>(c + j);
    for (int64_t p = 0; p < k; ++p) sum += a[p * a_stride] * *reinterpret_cast<const Vector*>(b + p * b_stride + j);
    *reinterpret_cast<Vector*>(c + j) = sum;
  }
  if constexpr (kBytes > 16) return multiply_row<T, kBytes / 2>(n - j, k, a, a_stride, b + j, b_stride, c + j);
  for (; j < n; ++j) {
    T sum = c[j];
    for (int64_t p = 0; p < k; ++p) sum += a[p * a_stride] * b[p * b_stride + j];
    c[j] = sum;
  }
}

template <typename T, int kBytes>
[[gnu::always_inline]] inline T multiply_dot(int64_t k, const T* a, const T* b) {
  using Vector = typename VectorOf<T, kBytes>::type;
  constexpr int kLanes = kBytes / sizeof(T);
  Vector sums[4] = {};
  int64_t p = 0;
  for (; p + 4 * kLanes <= k; p += 4 * kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      sums[v] +=
          *reinterpret_cast<const Vector*>(a + p + v * kLanes) * *reinterpret_cast<const Vector*>(b + p + v * kLanes);
    }
  }
  const Vector total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  T sum{};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) sum += total[i];
  for (; p < k; ++p) sum += a[p] * b[p];
  return sum;
}

template <typename T>
void tile_128(int64_t depth, const T* a, const T* b, T* c, int64_t c_stride, bool adds) {
  multiply_tile<T, 16, 4>(depth, a, b, c, c_stride, adds);
}
template <typename T>
void row_128(int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b, int64_t b_stride, T* c) {
  multiply_row<T, 16>(n, k, a, a_stride, b, b_stride, c);
}
template <typename T>
T dot_128(int64_t k, const T* a, const T* b) {
  return multiply_dot<T, 16>(k, a, b);
}

#ifdef __x86_64__
#define SLUICE_AVX2 __attribute__((target("avx2,fma")))
#define SLUICE_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")))
template <typename T>
SLUICE_AVX2 void tile_256(int64_t depth, const T* a, const T* b, T* c, int64_t c_stride, bool adds) {
  multiply_tile<T, 32, 6>(depth, a, b, c, c_stride, adds);
}
template <typename T>
SLUICE_AVX2 void row_256(int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b, int64_t b_stride, T* c) {
  multiply_row<T, 32>(n, k, a, a_stride, b, b_stride, c);
}
template <typename T>
SLUICE_AVX2 T dot_256(int64_t k, const T* a, const T* b) {
  return multiply_dot<T, 32>(k, a, b);
}
template <typename T>
SLUICE_AVX512 void tile_512(int64_t depth, const T* a, const T* b, T* c, int64_t c_stride, bool adds) {
  multiply_tile<T, 64, 12>(depth, a, b, c, c_stride, adds);
}
template <typename T>
SLUICE_AVX512 void row_512(int64_t n, int64_t k, const T* a, int64_t a_stride, const T* b, int64_t b_stride, T* c) {
  multiply_row<T, 64>(n, k, a, a_stride, b, b_stride, c);
}
template <typename T>
SLUICE_AVX512 T dot_512(int64_t k, const T* a, const T* b) {
  return multiply_dot<T, 64>(k, a, b);
}
#undef SLUICE_AVX2
#undef SLUICE_AVX512
#endif

template <typename T>
Kernel<T> choose_kernel() {
#ifdef __x86_64__
  if (vector_isa() == VectorIsa::kAvx512) return {12, 128 / int64_t{sizeof(T)}, tile_512<T>, row_512<T>, dot_512<T>};
  if (vector_isa() >= VectorIsa::kAvx2) return {6, 64 / int64_t{sizeof(T)}, tile_256<T>, row_256<T>, dot_256<T>};
#endif
  return {4, 32 / int64_t{sizeof(T)}, tile_128<T>, row_128<T>, dot_128<T>};
}

template <typename T>
const Kernel<T>& get_kernel() {
  static const Kernel<T> kernel = choose_kernel<T>();
  return kernel;
}

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// B as it lies in memory, if it does.
template <typename T>
bool is_plain(const Operand<T>& b) {
  return b.pack == pack_strided<T, T> && b.zero_points == nullptr && (b.line_stride == 1 || b.value_stride == 1);
}

// Columns [begin, begin + count) of all rows, without copies of B; at most kFewRows rows. `scratch`: [k].
template <typename T>
void compute_few_rows(const Product<T>& product, int64_t begin, int64_t count, T* scratch) {
  const Kernel<T>& kernel = get_kernel<T>();
  const Operand<T>& b = product.b;
  for (int64_t i = 0; i < product.m; ++i) {
    product.a.pack(product.a, i, 1, 1, 0, product.k, scratch);
    T* c = product.c + i * product.c_stride + begin;
    const T* from = static_cast<const T*>(b.data) + begin * b.line_stride;
    if (b.line_stride == 1) {
      if (!product.adds) std::fill_n(c, count, T{});
      // A few rows of B at a time: each is on a page of its own.
      constexpr int64_t kRowsAtOnce = 32;
      for (int64_t p = 0; p < product.k; p += kRowsAtOnce) {
        kernel.row(count, std::min(kRowsAtOnce, product.k - p), scratch + p, 1, from + p * b.value_stride,
                   b.value_stride, c);
      }
      continue;
    }
    for (int64_t j = 0; j < count; ++j) {
      const T sum = kernel.dot(product.k, scratch, from + j * b.line_stride);
      c[j] = product.adds ? c[j] + sum : sum;
    }
  }
}

}  // namespace

template <typename T>
void add_scaled_rows(int64_t n, int64_t k, const T* factors, int64_t factor_stride, const T* rows, int64_t row_stride,
                     T* sums) {
  get_kernel<T>().row(n, k, factors, factor_stride, rows, row_stride, sums);
}
template void add_scaled_rows<float>(int64_t, int64_t, const float*, int64_t, const float*, int64_t, float*);
template void add_scaled_rows<double>(int64_t, int64_t, const double*, int64_t, const double*, int64_t, double*);

namespace gemm_detail {

template <typename T>
Tiling plan(int64_t m, int64_t n, int64_t k, int64_t batch, int num_threads) {
  const Kernel<T>& kernel = get_kernel<T>();
  Tiling tiling;
  tiling.rows = std::min(round_up(m, kernel.rows), kMaxRows / kernel.rows * kernel.rows);
  tiling.columns = std::min(round_up(n, kernel.columns), m <= kFewRows ? kFewRowsColumns : kMaxColumns);
  auto count_tiles = [&] {
    tiling.row_tiles = (m + tiling.rows - 1) / tiling.rows;
    tiling.column_tiles = (n + tiling.columns - 1) / tiling.columns;
    return batch * tiling.row_tiles * tiling.column_tiles;
  };
  // Smaller tiles until each thread has a few, for as long as a tile is worth a copy.
  while (num_threads > 1 && count_tiles() < 3 * num_threads && tiling.rows * tiling.columns * k > (int64_t{1} << 18)) {
    if (tiling.columns >= tiling.rows && tiling.columns > 2 * kernel.columns) {
      tiling.columns = round_up(tiling.columns / 2, kernel.columns);
    } else if (tiling.rows > 2 * kernel.rows) {
      tiling.rows = round_up(tiling.rows / 2, kernel.rows);
    } else {
      break;
    }
  }
  count_tiles();
  const int64_t depth = std::min(std::max<int64_t>(k, 1), kDepth);
  tiling.scratch_elements = std::max(depth * (kernel.rows + tiling.columns), m <= kFewRows ? k : 0) + 64;
  return tiling;
}

template <typename T>
void compute(const Product<T>& product, const Tiling& tiling, int64_t row_tile, int64_t column_tile, T* scratch) {
  const Kernel<T>& kernel = get_kernel<T>();
  const int64_t first_row = row_tile * tiling.rows, first_column = column_tile * tiling.columns;
  const int64_t rows = std::min(tiling.rows, product.m - first_row);
  const int64_t columns = std::min(tiling.columns, product.n - first_column);
  if (product.k == 0) {
    for (int64_t i = 0; i < rows && !product.adds; ++i) {
      std::fill_n(product.c + (first_row + i) * product.c_stride + first_column, columns, T{});
    }
    return;
  }
  if (product.m <= kFewRows && is_plain(product.b)) return compute_few_rows(product, first_column, columns, scratch);

  T* const a_copy = scratch;
  T* const b_copy = scratch + round_up(kernel.rows * std::min(product.k, kDepth), 64 / int64_t{sizeof(T)});
  alignas(64) T edge[kMaxTileElements];
  for (int64_t p = 0; p < product.k; p += kDepth) {
    const int64_t depth = std::min(kDepth, product.k - p);
    const bool adds = product.adds || p > 0;
    for (int64_t j = 0; j < columns; j += kernel.columns) {
      product.b.pack(product.b, first_column + j, std::min(kernel.columns, columns - j), kernel.columns, p, depth,
                     b_copy + j * depth);
    }
    for (int64_t i = 0; i < rows; i += kernel.rows) {
      const int64_t tile_rows = std::min(kernel.rows, rows - i);
      product.a.pack(product.a, first_row + i, tile_rows, kernel.rows, p, depth, a_copy);
      for (int64_t j = 0; j < columns; j += kernel.columns) {
        const int64_t tile_columns = std::min(kernel.columns, columns - j);
        T* c = product.c + (first_row + i) * product.c_stride + first_column + j;
        if (tile_rows == kernel.rows && tile_columns == kernel.columns) {
          kernel.tile(depth, a_copy, b_copy + j * depth, c, product.c_stride, adds);
          continue;
        }
        kernel.tile(depth, a_copy, b_copy + j * depth, edge, kernel.columns, false);
        for (int64_t r = 0; r < tile_rows; ++r) {
          const T* from = edge + r * kernel.columns;
          T* to = c + r * product.c_stride;
          for (int64_t x = 0; x < tile_columns; ++x) to[x] = adds ? to[x] + from[x] : from[x];
        }
      }
    }
  }
}

template Tiling plan<float>(int64_t, int64_t, int64_t, int64_t, int);
template Tiling plan<double>(int64_t, int64_t, int64_t, int64_t, int);
template Tiling plan<uint32_t>(int64_t, int64_t, int64_t, int64_t, int);
template Tiling plan<uint64_t>(int64_t, int64_t, int64_t, int64_t, int);
template void compute<float>(const Product<float>&, const Tiling&, int64_t, int64_t, float*);
template void compute<double>(const Product<double>&, const Tiling&, int64_t, int64_t, double*);
template void compute<uint32_t>(const Product<uint32_t>&, const Tiling&, int64_t, int64_t, uint32_t*);
template void compute<uint64_t>(const Product<uint64_t>&, const Tiling&, int64_t, int64_t, uint64_t*);

}  // namespace gemm_detail
}  // namespace sluice::graph::ops
