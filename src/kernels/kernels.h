// The table of arithmetic: plain pointers in, plain pointers out. Kernels know no models, own no memory and start no
// threads; callers split the work (by output column, by head, by row) and call an entry from many threads at once.
//
// scalar/ defines what is right and fills every entry; avx2/ (later avx512/, amx/) overwrite the entries they do
// faster. select() puts the table together once for this machine, or for the ISA that SLUICE_ISA names.
//
// The quantised products of scalar/ multiply the exact weights by f32 activations; those of the other fills may round
// activations to 8 bits (ActivationFormat), which is why the caller asks the entry for its format. BF16 weights take
// activations rounded to bf16 in every fill, as processors with products of bf16 pairs and GGUF's own runtime do.
//
// Batch invariance: what an entry writes for one row depends on that row and the weights only, never on how many rows
// come with it nor on how the work was split. So a request's text does not change with its neighbours in the batch.
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
};
inline constexpr int kNumActivationFormats = 3;

// output[r, o] = sum over i of activations[r, i] * weights[o, i], for r < num_rows, output_begin <= o < output_end.
struct MatmulArgs {
  const void* weights;          // [num_outputs, num_inputs] in the entry's type, rows weight_row_bytes apart; may lie
                                // at any address
  int64_t weight_row_bytes;
  const void* activations;      // [num_rows, num_inputs] in the entry's activation format, 4-byte aligned
  int64_t activation_row_bytes;
  float* output;                // [num_rows, output_stride]
  int64_t output_stride;        // floats between rows of output
  int64_t num_rows;
  int64_t num_inputs;           // a multiple of the type's block size
  int64_t output_begin, output_end;
};

struct MatmulEntry {
  ActivationFormat activation_format = ActivationFormat::kF32;
  void (*multiply)(const MatmulArgs& args) = nullptr;
};

// Attention of one key/value head: `group_size` query heads that share it, `num_queries` consecutive tokens.
// Query i stands at position first_position + i and sees positions (p - window, p], all of (-inf, p] if window is 0.
// Keys and values lie in pages of kPageSize tokens, [kPageSize, head_dim] each, in the KV type of the entry (q8_0 rows
// are blocks of 32 along head_dim, so q8_0 needs head_dim % 32 == 0; the others take any head_dim). Softmax in f32,
// online or two-pass. Memory of positions after the last query may hold anything: it changes no result.
inline constexpr int kPageSize = 16;

struct AttentionArgs {
  const float* queries;         // element (i, h, d) at i * query_stride + h * head_dim + d
  int64_t query_stride;
  float* output;                // element (i, h, d) at i * output_stride + h * head_dim + d
  int64_t output_stride;
  const void* const* key_pages;    // [ceil(context / kPageSize)]
  const void* const* value_pages;  // [ceil(context / kPageSize)]
  int64_t num_queries;
  int64_t group_size;
  int64_t head_dim;
  int64_t first_position;
  int64_t window;               // 0: none
  float scale;                  // multiplies q.k
  float softcap;                // 0: none; else s = softcap * tanh(s / softcap) after the scale
  float* scratch;               // attention_scratch_floats(args' sizes) floats, private to the call
};

// Upper bound for AttentionArgs::scratch over all fills, for `context` positions up to the last query's: the reference
// keeps one score per position; faster fills keep a page of keys and values in f32 and the state of a tile of rows.
inline int64_t attention_scratch_floats(int64_t context, int64_t group_size, int64_t head_dim) {
  int64_t tile_rows = group_size + kPageSize;
  return (context + kPageSize) + 2 * (kPageSize + tile_rows) * (head_dim + kPageSize) + tile_rows * (kPageSize + 4);
}

struct Kernels {
  const char* isa;  // name of the best fill in here: "scalar", "avx2"

  // Products, by weight type. multiply is null for types that are no weights (integers).
  MatmulEntry matmul[kNumDTypes];
  // x[n] -> one row in that activation format (kF32: a copy). `row` has activation_row_bytes(format, n) bytes.
  void (*quantize_activations[kNumActivationFormats])(const float* x, void* row, int64_t n);
  // One row of n weights -> f32 (embedding look-up). Null for types that are no weights.
  void (*dequantize[kNumDTypes])(const void* row, float* out, int64_t n);
  // f32 -> one row of KV memory; kF32 kF16 kBF16 kQ8_0 only, else null.
  void (*store_row[kNumDTypes])(const float* x, void* row, int64_t n);
  // By KV type: kF32 kF16 kBF16 kQ8_0 only, else null.
  void (*attention[kNumDTypes])(const AttentionArgs& args);

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
};

int64_t activation_row_bytes(ActivationFormat format, int64_t num_inputs);

// Instruction sets compiled in and runnable here, slowest first: {"scalar", "avx2"}.
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

// One a fill, defined in scalar/ and avx2/.
void scalar_fill(Kernels& table);
void avx2_fill(Kernels& table);

}  // namespace sluice::kernels
