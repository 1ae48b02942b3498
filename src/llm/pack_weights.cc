#include "llm/pack_weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/trace.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace sluice::llm {
namespace {

constexpr int64_t kPieceBytes = 1 << 20;  // packed by one worker at a time

std::vector<Linear*> list_matrices(Weights& weights) {
  std::vector<Linear*> list;
  for (LayerWeights& layer : weights.layers) {
    for (Linear* linear : {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down,
                           &layer.router}) {
      list.push_back(linear);
    }
    for (ExpertWeights& expert : layer.experts) {
      for (Linear* linear : {&expert.gate, &expert.up, &expert.down}) list.push_back(linear);
    }
  }
  list.push_back(&weights.head);
  return list;
}

bool should_pack(const Linear& linear) {
  return linear && kernels::get_kernels().packed_matmul[static_cast<int>(linear.weight.type)].multiply != nullptr &&
         kernels::can_pack(linear.weight.type, linear.num_inputs());
}

// Rows of one matrix, whole strips but for its end.
struct Piece {
  const Linear* linear;
  int64_t first_row, num_rows;
  uint8_t* strips;  // of the first row
};

std::shared_ptr<uint8_t> map_memory(size_t num_bytes) {
  void* memory = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    fail(Code::kResourceExhausted, "no memory for {} MiB of repacked weights; free some, or use --no-repack",
         num_bytes >> 20);
  }
  madvise(memory, num_bytes, MADV_HUGEPAGE);  // a refusal only costs speed
  return {static_cast<uint8_t*>(memory), [num_bytes](uint8_t* p) { munmap(p, num_bytes); }};
}

void pack(const Piece& piece, const formats::WeightFile& file) {
  const TensorView& weight = piece.linear->weight;
  const int64_t num_inputs = piece.linear->num_inputs(), bytes = row_bytes(weight.type, num_inputs);
  const TensorView rows = {.type = weight.type,
                           .shape = {piece.num_rows, num_inputs},
                           .data = weight.data + piece.first_row * bytes};
  kernels::pack_matrix(weight.type, rows.data, piece.num_rows, num_inputs, piece.strips);
  file.release(rows);
}

}  // namespace

void pack_weights(Weights& weights, ThreadPool& pool) {
  TRACE("llm.pack_weights");
  std::vector<Linear*> matrices = list_matrices(weights);
  const auto begin_unpackable = std::stable_partition(matrices.begin(), matrices.end(),
                                                      [](const Linear* linear) { return should_pack(*linear); });
  const bool packs_all = std::none_of(begin_unpackable, matrices.end(), [](const Linear* l) { return bool(*l); });
  matrices.erase(begin_unpackable, matrices.end());
  if (matrices.empty()) return;

  int64_t total = 0;
  for (const Linear* linear : matrices) {
    total += kernels::packed_bytes(linear->weight.type, linear->num_outputs(), linear->num_inputs());
  }
  weights.packed = map_memory(static_cast<size_t>(total));

  std::vector<Piece> pieces;
  uint8_t* at = weights.packed.get();
  std::vector<const uint8_t*> strips_of;  // of each matrix
  for (const Linear* linear : matrices) {
    strips_of.push_back(at);
    const int64_t strip_bytes = kernels::packed_strip_bytes(linear->weight.type, linear->num_inputs());
    const int64_t rows_each = std::max<int64_t>(1, kPieceBytes / strip_bytes) * kernels::kStripRows;
    for (int64_t row = 0; row < linear->num_outputs(); row += rows_each) {
      pieces.push_back({linear, row, std::min(rows_each, linear->num_outputs() - row), at});
      at += (pieces.back().num_rows + kernels::kStripRows - 1) / kernels::kStripRows * strip_bytes;
    }
  }
  pool.parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) pack(pieces[static_cast<size_t>(i)], *weights.file);
  });
  for (size_t i = 0; i < matrices.size(); ++i) {
    matrices[i]->weight.data = strips_of[i];
    matrices[i]->is_packed = true;
  }
  if (packs_all) weights.owned_matrices.clear();
}

}  // namespace sluice::llm
