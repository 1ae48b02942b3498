// The engine of one loaded model: a thread that owns its sequences and pages, a queue of requests in, events out.
//
// The loop is: take what was submitted and cancelled; plan = scheduler.step(now); logits = model.forward(plan.batch);
// scheduler.commit(sampler.pick(...)). submit(), cancel(), finish_sequence() and stats() may be called from any thread.
// An exception inside a step ends the requests of that step with its Error; the engine goes on.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "engine/request.h"
#include "llm/model.h"

namespace sluice::engine {

struct EngineOptions {
  int64_t max_model_len = 0;            // 0: the model's, lowered to what the KV memory holds
  int64_t kv_cache_memory_bytes = 0;    // 0: from free memory and max_model_len
  DType kv_cache_type = DType::kF16;
  int64_t max_num_batched_tokens = 2048;  // token budget of a step
  int64_t max_num_seqs = 128;
  int64_t max_queue = 1024;             // waiting requests
  int64_t long_prefill_token_threshold = 0;  // most prompt tokens of one sequence a step; 0: half of the budget
  // How long a step may be made by others' prompts while some sequence generates; prompts then come in smaller chunks.
  // 0: as long as the token budget makes it.
  int64_t interleaved_step_ms = 250;
  SchedulingPolicy policy = SchedulingPolicy::kFcfs;
  bool enable_prefix_caching = true;
  std::vector<int32_t> end_tokens;      // the model's end-of-sequence ids
};

// Counters only rise; gauges are of the last step.
struct EngineStats {
  int64_t num_running = 0, num_waiting = 0;
  int64_t num_pages = 0, num_free_pages = 0;  // free includes cached pages nobody uses
  int64_t num_preemptions = 0;
  int64_t prompt_tokens = 0, generation_tokens = 0;
  int64_t prefix_cache_queries = 0, prefix_cache_hits = 0;  // in tokens
  int64_t num_steps = 0;
};

enum class SubmitResult { kAccepted, kQueueFull, kStopped };

class Engine {
 public:
  // `pool` is the pool that `model` computes on. Throws Error if the KV memory cannot hold one page a layer, or the like.
  Engine(llm::Model& model, ThreadPool& pool, EngineOptions options);
  ~Engine();  // aborts what still runs
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Throws Error(kInvalidArgument) for a prompt that is empty, out of the vocabulary or longer than max_model_len (giving both
  // numbers), and for sampling parameters out of range. kQueueFull: try again later.
  [[nodiscard]] SubmitResult submit(Request request);
  // Takes effect before the next step: pages freed, last event kAbort. Unknown ids are ignored.
  void cancel(const std::string& request_id);
  // A stop string matched in the text of one sequence: it ends with kStop. Unknown ids are ignored.
  void finish_sequence(const std::string& request_id, int sequence_index);

  EngineStats stats() const;
  int64_t max_model_len() const;
  const EngineOptions& options() const;
  // Called on the engine thread after each step with the number of tokens it computed.
  void set_step_observer(std::function<void(int64_t num_tokens)> observer);
  // Waits until nothing runs or waits, at most `timeout_ms`; false on time-out.
  bool wait_until_idle(int64_t timeout_ms);
  // True unless the engine thread has met an error it cannot go on from.
  bool healthy() const;
  // Checks the page accounting (free + used = all, reference counts match); a CHECK fails otherwise. Waits for idle first.
  void check_integrity();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::engine
