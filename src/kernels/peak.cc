#include "kernels/peak.h"

#include "kernels/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sluice::kernels {
namespace {

// What a loop leaves behind goes here, so that none of it is dead code.
thread_local volatile uint64_t t_sink;

void run_plain_int(int64_t rounds) {
  uint32_t sums[16] = {};
  for (; rounds > 0; --rounds) {
    for (uint32_t i = 0; i < 16; ++i) sums[i] += (i + 3) * static_cast<uint8_t>(rounds);
    __asm__ volatile("" : : "r"(sums) : "memory");
  }
  t_sink = sums[0];
}

void run_plain_float(int64_t rounds) {
  float sums[16] = {};
  for (; rounds > 0; --rounds) {
    for (int i = 0; i < 16; ++i) sums[i] = sums[i] * 0.999f + 0.5f;
    __asm__ volatile("" : : "r"(sums) : "memory");
  }
  t_sink = static_cast<uint64_t>(sums[0]);
}

uint64_t read_plain(const void* data, size_t bytes) {
  const auto* words = static_cast<const uint64_t*>(data);
  uint64_t sums[4] = {};
  for (size_t i = 0; i < bytes / 8; i += 4) {
    for (size_t k = 0; k < 4; ++k) sums[k] ^= words[i + k];
  }
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

#if defined(__x86_64__)

// Ten or twelve independent chains hide a latency of four or five cycles on two units. The empty asm keeps equal chains
// from being made one, and the values in registers.

__attribute__((target("avx2,fma"))) void run_avx2_float(int64_t rounds) {
  const __m256 k = _mm256_set1_ps(0.999f);
  __m256 a = k, b = k, c = k, d = k, e = k, f = k, g = k, h = k, i = k, j = k;
  for (; rounds > 0; --rounds) {
    a = _mm256_fmadd_ps(a, k, k), b = _mm256_fmadd_ps(b, k, k), c = _mm256_fmadd_ps(c, k, k);
    d = _mm256_fmadd_ps(d, k, k), e = _mm256_fmadd_ps(e, k, k), f = _mm256_fmadd_ps(f, k, k);
    g = _mm256_fmadd_ps(g, k, k), h = _mm256_fmadd_ps(h, k, k), i = _mm256_fmadd_ps(i, k, k);
    j = _mm256_fmadd_ps(j, k, k);
    __asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g), "+x"(h), "+x"(i), "+x"(j));
  }
  a = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)), _mm256_add_ps(e, f));
  a = _mm256_add_ps(a, _mm256_add_ps(_mm256_add_ps(g, h), _mm256_add_ps(i, j)));
  t_sink = static_cast<uint64_t>(_mm256_cvtss_f32(a));
}

// Without VNNI a dot product of bytes is three instructions: pairs to 16 bits, pairs of those to 32, and the sum.
__attribute__((target("avx2"), always_inline)) inline __m256i add_dot(__m256i sum, __m256i x, __m256i y) {
  __asm__ volatile("" : "+x"(x));  // equal products must not be made one
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1)));
}

__attribute__((target("avx2"))) void run_avx2_int8(int64_t rounds) {
  const __m256i x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(5);
  __m256i a = x, b = x, c = x, d = x, e = x, f = x;
  for (; rounds > 0; --rounds) {
    a = add_dot(a, x, y), b = add_dot(b, x, y), c = add_dot(c, x, y);
    d = add_dot(d, x, y), e = add_dot(e, x, y), f = add_dot(f, x, y);
  }
  a = _mm256_add_epi32(_mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d)), _mm256_add_epi32(e, f));
  t_sink = static_cast<uint32_t>(_mm256_cvtsi256_si32(a));
}

__attribute__((target("avx512f"))) void run_avx512_float(int64_t rounds) {
  const __m512 k = _mm512_set1_ps(0.999f);
  __m512 a = k, b = k, c = k, d = k, e = k, f = k, g = k, h = k, i = k, j = k;
  for (; rounds > 0; --rounds) {
    a = _mm512_fmadd_ps(a, k, k), b = _mm512_fmadd_ps(b, k, k), c = _mm512_fmadd_ps(c, k, k);
    d = _mm512_fmadd_ps(d, k, k), e = _mm512_fmadd_ps(e, k, k), f = _mm512_fmadd_ps(f, k, k);
    g = _mm512_fmadd_ps(g, k, k), h = _mm512_fmadd_ps(h, k, k), i = _mm512_fmadd_ps(i, k, k);
    j = _mm512_fmadd_ps(j, k, k);
    __asm__ volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h), "+v"(i), "+v"(j));
  }
  a = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)), _mm512_add_ps(e, f));
  a = _mm512_add_ps(a, _mm512_add_ps(_mm512_add_ps(g, h), _mm512_add_ps(i, j)));
  t_sink = static_cast<uint64_t>(_mm512_cvtss_f32(a));
}

__attribute__((target("avx512f,avx512vnni"))) void run_avx512_int8(int64_t rounds) {
  const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(5);
  __m512i a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
  for (; rounds > 0; --rounds) {
    a = _mm512_dpbusd_epi32(a, x, y), b = _mm512_dpbusd_epi32(b, x, y), c = _mm512_dpbusd_epi32(c, x, y);
    d = _mm512_dpbusd_epi32(d, x, y), e = _mm512_dpbusd_epi32(e, x, y), f = _mm512_dpbusd_epi32(f, x, y);
    g = _mm512_dpbusd_epi32(g, x, y), h = _mm512_dpbusd_epi32(h, x, y), i = _mm512_dpbusd_epi32(i, x, y);
    j = _mm512_dpbusd_epi32(j, x, y);
    __asm__ volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h), "+v"(i), "+v"(j));
  }
  a = _mm512_add_epi32(_mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)), _mm512_add_epi32(e, f));
  a = _mm512_add_epi32(a, _mm512_add_epi32(_mm512_add_epi32(g, h), _mm512_add_epi32(i, j)));
  t_sink = static_cast<uint32_t>(_mm512_cvtsi512_si32(a));
}

__attribute__((target("avx512f,avx512bf16"))) void run_avx512_bf16(int64_t rounds) {
  const __m512 k = _mm512_set1_ps(0.5f);
  const __m512bh x = _mm512_cvtne2ps_pbh(k, k);
  __m512 a = k, b = k, c = k, d = k, e = k, f = k, g = k, h = k, i = k, j = k;
  for (; rounds > 0; --rounds) {
    a = _mm512_dpbf16_ps(a, x, x), b = _mm512_dpbf16_ps(b, x, x), c = _mm512_dpbf16_ps(c, x, x);
    d = _mm512_dpbf16_ps(d, x, x), e = _mm512_dpbf16_ps(e, x, x), f = _mm512_dpbf16_ps(f, x, x);
    g = _mm512_dpbf16_ps(g, x, x), h = _mm512_dpbf16_ps(h, x, x), i = _mm512_dpbf16_ps(i, x, x);
    j = _mm512_dpbf16_ps(j, x, x);
    __asm__ volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h), "+v"(i), "+v"(j));
  }
  a = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)), _mm512_add_ps(e, f));
  a = _mm512_add_ps(a, _mm512_add_ps(_mm512_add_ps(g, h), _mm512_add_ps(i, j)));
  t_sink = static_cast<uint64_t>(_mm512_cvtss_f32(a));
}

// Sixteen rows of 64 bytes for each of the eight tile registers.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

__attribute__((target("amx-tile,amx-int8"))) void run_amx_int8(int64_t rounds) {
  const TileConfig config;
  _tile_loadconfig(&config);
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
  for (; rounds > 0; --rounds) {
    _tile_dpbusd(0, 4, 6); _tile_dpbusd(1, 4, 7); _tile_dpbusd(2, 5, 6); _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
}

__attribute__((target("amx-tile,amx-bf16"))) void run_amx_bf16(int64_t rounds) {
  const TileConfig config;
  _tile_loadconfig(&config);
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
  for (; rounds > 0; --rounds) {
    _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

__attribute__((target("avx2"), always_inline)) inline __m256i add_line(__m256i sum, const char* line) {
  _mm_prefetch(line + 2048, _MM_HINT_T0);
  sum = _mm256_xor_si256(sum, _mm256_load_si256(reinterpret_cast<const __m256i*>(line)));
  return _mm256_xor_si256(sum, _mm256_load_si256(reinterpret_cast<const __m256i*>(line + 32)));
}

// Reads four lines each round, `stride` bytes apart, and goes on by `step`.
__attribute__((target("avx2"), always_inline)) inline uint64_t read_lines(const char* p, size_t stride, size_t step,
                                                                          size_t num_rounds) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (; num_rounds > 0; --num_rounds, p += step) {
    a = add_line(a, p), b = add_line(b, p + stride);
    c = add_line(c, p + 2 * stride), d = add_line(d, p + 3 * stride);
  }
  const __m256i sum = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
  return static_cast<uint64_t>(_mm256_extract_epi64(sum, 0) ^ _mm256_extract_epi64(sum, 1) ^
                               _mm256_extract_epi64(sum, 2) ^ _mm256_extract_epi64(sum, 3));
}

__attribute__((target("avx2"))) uint64_t read_avx2(const void* data, size_t bytes) {
  return read_lines(static_cast<const char*>(data), 64, 256, bytes / 256);
}

__attribute__((target("avx2"))) uint64_t read_four_avx2(const void* data, size_t bytes) {
  return read_lines(static_cast<const char*>(data), bytes / 4, 64, bytes / 256);
}

#endif

}  // namespace

PeakLoop get_peak_int8() {
#if defined(__x86_64__)
  const Cpu& cpu = get_cpu();
  if (cpu.amx_int8 && may_use_tiles()) return {"amx int8", 4 * 2.0 * 16 * 16 * 64, run_amx_int8};
  if (cpu.avx512_vnni) return {"avx512 vnni", 10 * 2.0 * 64, run_avx512_int8};
  if (cpu.avx2) return {"avx2", 6 * 2.0 * 32, run_avx2_int8};
#endif
  return {"plain", 16 * 2.0, run_plain_int};
}

PeakLoop get_peak_bf16() {
#if defined(__x86_64__)
  const Cpu& cpu = get_cpu();
  if (cpu.amx_bf16 && may_use_tiles()) return {"amx bf16", 4 * 2.0 * 16 * 16 * 32, run_amx_bf16};
  if (cpu.avx512_bf16) return {"avx512 bf16", 10 * 2.0 * 32, run_avx512_bf16};
#endif
  return get_peak_f32();
}

PeakLoop get_peak_f32() {
#if defined(__x86_64__)
  const Cpu& cpu = get_cpu();
  if (cpu.avx512) return {"avx512 fma", 10 * 2.0 * 16, run_avx512_float};
  if (cpu.avx2) return {"avx2 fma", 10 * 2.0 * 8, run_avx2_float};
#endif
  return {"plain", 16 * 2.0, run_plain_float};
}

uint64_t read_stream(const void* data, size_t bytes) {
#if defined(__x86_64__)
  if (get_cpu().avx2) return read_avx2(data, bytes);
#endif
  return read_plain(data, bytes);
}

uint64_t read_four_streams(const void* data, size_t bytes) {
#if defined(__x86_64__)
  if (get_cpu().avx2) return read_four_avx2(data, bytes);
#endif
  return read_plain(data, bytes);
}

}  // namespace sluice::kernels
