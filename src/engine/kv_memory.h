// How many KV pages an engine gets, and how long a sequence can be with them. Pure but for
// available_memory_bytes(), which reads /proc and the cgroup. Called once, when the engine is made.
#pragma once

#include <cstdint>

#include "engine/engine.h"
#include "llm/model.h"

namespace sluice::engine {

// What this process may still allocate: the system's available memory or the (version 2) cgroup's
// limit, whichever is less.
int64_t available_memory_bytes();

struct KvMemoryPlan {
  int64_t num_pages = 0;
  int64_t max_model_len = 0;
};

// kv_cache_memory_bytes as given, or of `available_bytes` what the weights and a margin leave, but
// no more than max_num_seqs sequences of full length need. Lowers max_model_len, with a warning, to
// what that holds. Throws Error if it holds nothing, or if max_model_len is beyond the model's.
KvMemoryPlan plan_kv_memory(const EngineOptions& options, const llm::Model& model,
                            int64_t available_bytes);

}  // namespace sluice::engine
