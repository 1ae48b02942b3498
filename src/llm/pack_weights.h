// Matrices from the order of the file into the strips that wide products read (kernels/pack.h), once, at load.
//
// The strips lie in one stretch of anonymous memory with huge pages. Every worker packs some of the rows and gives the
// file's pages behind them back at once, so that the process holds one copy of the weights at any time (two of matrices
// that had to be transposed first, until all are packed). The embedding stays as it is: it is looked up by row, and of
// the file's pages only those rows come back.
#pragma once

#include "base/thread_pool.h"
#include "llm/weights.h"

namespace sluice::llm {

// Packs every matrix that get_kernels() has a packed product for; does nothing where there is none (scalar, AVX2).
// Throws Error if there is no memory for the strips.
void pack_weights(Weights& weights, ThreadPool& pool);

}  // namespace sluice::llm
