// The table of arithmetic: plain pointers in, plain pointers out. Kernels know no models, own no memory and start no
// threads; callers split the work (by output column, by head, by row) and call an entry from many threads at once.
//
// scalar/ defines what is right and fills every entry; avx2/, avx512/ and amx/ overwrite the entries they do faster.
// select() puts the table together once for this machine, or for the ISA that SLUICE_ISA names.
//
// The quantised products of scalar/ multiply the exact weights by f32 activations; those of other fills may round these
// to 8 bits, or both sides to bf16 (amx/), which is why the caller asks the entry for its format. BF16 weights take
// activations rounded to bf16 in every fill, as processors with products of bf16 pairs and GGUF's own runtime do.
//
// Batch invariance: what an entry writes for one row depends on that row and the weights only, never on how many rows
// come with it nor on how the work was split. So a request's text does not change with its neighbours in the batch, as
// long as the caller stays with one entry (few_rows_matmul and few_rows_attention are others).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"

namespace sluice::kernels {

// How a product wants its left side. One conversion a row, shared by every product over that row. Every quantised type
// uses blocks of 32, K-quants too: their sub-blocks are 32 or 16 wide, so nothing is gained by a wider activation
// block, and one outlier then spoils the precision of 32 neighbours and not of 256.
enum class ActivationFormat : uint8_t {
  kF32,    // float[num_inputs]
  kQ8_32,  // BlockQ8_32[num_inputs / 32] (quant_blocks.h): f32 scale, two sums, 32 int8
  kBF16,   // float[num_inputs], each rounded to what bf16 holds: what a bf16 x bf16 -> f32 product sees
  kBF16Pairs,  // uint16[num_inputs], the same numbers as the upper halves of floats: for dot products of bf16 pairs
  kBF16Tiles,  // the same again, in tiles of 16 rows by 32 inputs, 1 KB each, those of the same rows one after another:
               // for products of tiles. 32 inputs of a row are 64 bytes, the next 32 lie 1024 further; inputs up to a
               // multiple of 32 are zero. Where a row lies in its tile is seen from its address.
};
inline constexpr int kNumActivationFormats = 5;
inline constexpr int64_t kActivationAlignment = 1024;  // of row 0 of a set of rows

// output[r, o] = sum over i of activations[r, i] * weights[o, i], for r < num_rows, output_begin <= o < output_end.
struct MatmulArgs {
  const void* weights;          // [num_outputs, num_inputs] in the entry's type, rows weight_row_bytes apart, at any
                                // address; of a packed entry: strips (pack.h), 64-byte aligned
  int64_t weight_row_bytes;     // packed entries do not read it
  const void* activations;      // [num_rows, num_inputs] in the entry's activation format; any row of a set of rows
  int64_t activation_row_bytes; // of the function below
  float* output;                // [num_rows, output_stride]
  int64_t output_stride;        // floats between rows of output
  int64_t num_rows;
  int64_t num_inputs;           // a multiple of the type's block size
  int64_t output_begin, output_end;  // of a packed entry: output_begin is a multiple of kStripRows
};

// Steps of so many rows may have products of their own (Kernels::few_rows_matmul): up to about here a processor with
// tiles waits for memory, not for its vector units.
inline constexpr int64_t kFewRows = 8;

struct MatmulEntry {
  ActivationFormat activation_format = ActivationFormat::kF32;
  void (*multiply)(const MatmulArgs& args) = nullptr;
};

// Attention of one key/value head over one span of positions: `group_size` query heads that share it, `num_queries`
// consecutive tokens. Query i stands at position first_position + i and sees positions (p - window, p], all of
// (-inf, p] if window is 0; of these a call attends to those in [begin, end). It leaves a partial result, which
// attention.h merges with those of other spans. Spans begin at multiples of kAttentionSpan whatever the queries are, so
// that a row's numbers do not depend on who computed which span.
//
// Keys and values lie in pages of kPageSize tokens in the KV type of the entry: values as [kPageSize, head_dim], keys
// the other way round, [head_dim, kPageSize], so that one load has the same element of 16 keys (attention.h stores
// them; q8_0 has blocks of 32 along head_dim and needs head_dim % 32 == 0). Softmax in f32, online or two-pass.
// Memory of positions after the last query may hold anything: it changes no result.
inline constexpr int kPageSize = 16;
inline constexpr int kAttentionSpan = 512;
inline constexpr int kAttentionRows = 128;  // query heads (tokens times group) for which a page is best read at once

// Floats of one row's partial result: the sum of values by weight [head_dim], room to a multiple of 16, then the
// largest score and the sum of weights, room to 16 again. Scores are in units of log 2, s * log2(e), and a weight is
// 2^(score - largest); with no position in sight the largest score is -inf and the sums are 0.
inline int64_t attention_values_floats(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
inline int64_t attention_partial_floats(int64_t head_dim) { return attention_values_floats(head_dim) + 16; }

struct AttentionArgs {
  const float* queries;         // element (i, h, d) at i * query_stride + h * head_dim + d
  int64_t query_stride;
  const void* const* key_pages;    // [ceil(end / kPageSize)], of which those of [begin, end) that a query sees are read
  const void* const* value_pages;  // the same
  int64_t begin, end;           // begin % kAttentionSpan == 0, end <= begin + kAttentionSpan
  int64_t num_queries;
  int64_t group_size;
  int64_t head_dim;
  int64_t first_position;
  int64_t window;               // 0: none
  float scale;                  // multiplies q.k
  float softcap;                // 0: none; else s = softcap * tanh(s / softcap) after the scale
  float* partials;              // [num_queries, group_size, attention_partial_floats(head_dim)]
  float* scratch;               // attention_scratch_floats(group_size, head_dim) floats, private to the call
};

// Upper bound for AttentionArgs::scratch over all fills: the reference keeps the scores of a span and a row; faster
// fills keep the queries and the state (amx/ the sums too) of up to kAttentionRows rows (at least a group), scores of
// some of them, and a few pages in f32 or as tiles.
inline int64_t attention_scratch_floats(int64_t group_size, int64_t head_dim) {
  const int64_t rows = (group_size > kAttentionRows ? group_size : kAttentionRows) + 16;
  const int64_t width = (head_dim + 15) / 16 * 16;
  return kAttentionSpan + rows * (2 * width + 48) + 2 * 64 * width + 128 * 64;
}

// Calls with fewer rows (queries times group) than this may have an entry of their own (Kernels::few_rows_attention):
// for those it costs more to make tiles of a page than to multiply by it.
inline constexpr int64_t kManyAttentionRows = 16;

struct Kernels {
  const char* isa;  // name of the best fill in here: "scalar", "avx2", "avx512", "amx"

  // Products, by weight type. multiply is null for types that are no weights (integers).
  MatmulEntry matmul[kNumDTypes];
  // The same over weights packed in strips (pack.h); multiply is null where rows as they lie in files do as well.
  MatmulEntry packed_matmul[kNumDTypes];
  // The same for steps of at most kFewRows rows, where those are done sooner in another way: tiles take as long for one
  // row as for 16. Null: packed_matmul does them too. Rounds differently, so rows of small and of large steps agree
  // only up to that; SLUICE_BATCH_INVARIANT=1 leaves it out.
  MatmulEntry few_rows_matmul[kNumDTypes];
  // x[n] -> one row in that activation format (kF32: a copy), `row` being where it begins, or where input `begin` of it
  // is, if x is only a part of the row.
  void (*quantize_activations[kNumActivationFormats])(const float* x, void* row, int64_t n);
  // One row of n weights -> f32 (embedding look-up). Null for types that are no weights.
  void (*dequantize[kNumDTypes])(const void* row, float* out, int64_t n);
  // f32 -> one row of KV memory; kF32 kF16 kBF16 kQ8_0 only, else null.
  void (*store_row[kNumDTypes])(const float* x, void* row, int64_t n);
  // By KV type: kF32 kF16 kBF16 kQ8_0 only, else null.
  void (*attention[kNumDTypes])(const AttentionArgs& args);
  // The same for calls of fewer than kManyAttentionRows rows. Null: attention does them too. Rounds differently, like
  // few_rows_matmul, and SLUICE_BATCH_INVARIANT=1 leaves it out too. attention.h chooses.
  void (*few_rows_attention[kNumDTypes])(const AttentionArgs& args);

  void (*rms_norm)(const float* x, const float* weight, float* out, int64_t n, float epsilon);   // x / rms(x) * weight
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float* out, int64_t n,
                     float epsilon);                                                             // bias may be null
  // Rotates pairs of x in place: (x[i], x[i + half]) for neox, (x[2i], x[2i + 1]) for interleaved, i < half.
  void (*rope_neox)(float* x, const float* cosines, const float* sines, int64_t half);
  void (*rope_interleaved)(float* x, const float* cosines, const float* sines, int64_t half);
  void (*silu_multiply)(const float* gate, const float* up, float* out, int64_t n);       // gate * sigmoid(gate) * up
  void (*gelu_multiply)(const float* gate, const float* up, float* out, int64_t n);       // gelu_tanh(gate) * up
  void (*gelu_tanh)(const float* x, float* out, int64_t n);
  void (*gelu_erf)(const float* x, float* out, int64_t n);
  void (*add)(const float* a, const float* b, float* out, int64_t n);                     // a + b
  void (*scale)(const float* x, float factor, float* out, int64_t n);
  void (*multiply_add)(const float* x, float factor, float* accumulator, int64_t n);      // accumulator += factor * x
  void (*softcap)(const float* x, float cap, float* out, int64_t n);                      // cap * tanh(x / cap)
  // max(x) + log(sum(exp(x - max(x)))), the sum in double.
  double (*log_sum_exp)(const float* x, int64_t n);
  // Index of the largest element, the lowest index of equals; NaNs never win.
  int64_t (*argmax)(const float* x, int64_t n);
  // weights[i] = exp((x[i] - base) * scale), and their sum. REQUIRES: x <= base, scale > 0; -inf gives 0.
  double (*exp_weights)(const float* x, float base, float scale, float* weights, int64_t n);
  // Sum of values[i] over the i with keys[i] >= border, and in *count how many they are. n < 2^31.
  double (*sum_at_least)(const float* keys, const float* values, float border, int64_t n, int64_t* count);
};

// Bytes of a row. Not of every format is a row one stretch of bytes, so whole sets of rows come by these:
int64_t activation_row_bytes(ActivationFormat format, int64_t num_inputs);
int64_t activation_bytes(ActivationFormat format, int64_t num_rows, int64_t num_inputs);
// From row 0 to input `begin` of a row; `begin` is a multiple of 32.
int64_t activation_offset(ActivationFormat format, int64_t num_inputs, int64_t row, int64_t begin = 0);
// Copies one row, from and to where rows of the format begin.
void copy_activation_row(ActivationFormat format, int64_t num_inputs, const void* from, void* to);

// Instruction sets compiled in and runnable here, slowest first: {"scalar", "avx2", "avx512", "amx"}.
struct IsaList {
  const char* names[8];
  int count;
};
IsaList available_isas();

// The table for this machine (SLUICE_ISA respected; throws Error listing the available ones if it names none of them).
// Made on first use; any thread.
const Kernels& get_kernels();
// The table up to and including the named ISA. REQUIRES: it is in available_isas().
Kernels make_kernels(const char* isa);

// One a fill, each defined in its folder.
void scalar_fill(Kernels& table);
void avx2_fill(Kernels& table);
void avx512_fill(Kernels& table);       // F, BW, CD, DQ, VL and VNNI
void avx512_bf16_fill(Kernels& table);  // what AVX512_BF16 adds to it
void amx_fill(Kernels& table);          // tiles of bf16, and what avx512_fill asks for

}  // namespace sluice::kernels
