// Which tokens go into the next step. Holds the live requests, the running and the waiting
// sequences, and the page accounting; touches no tensor, reads no clock, starts no thread, so a
// test can drive it through days in milliseconds.
//
// step() fills the plan: running sequences first, then waiting ones, within one budget of tokens. A
// long prompt comes in chunks, and all long prompts together get at most
// long_prefill_token_threshold tokens of a step, so that they stall neither the tokens nor the
// short prompts of others. When pages run out the last running sequence is preempted: its pages are
// freed and it waits again, to be recomputed (mostly from the prefix cache) with its tokens and
// random position kept. The running and the waiting list have the same order, (priority,) arrival,
// sequence index, so whoever is preempted comes back before later arrivals, and the first of all
// always makes progress. A sequence that lacks pages while it has the memory to itself ends with
// kLength. The caller computes the plan and hands what was sampled to commit().
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/block_manager.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "llm/batch.h"

namespace sluice::engine {

struct SchedulerOptions {
  int64_t max_num_batched_tokens = 2048;
  int64_t max_num_seqs = 128;                // REQUIRES: <= max_num_batched_tokens
  int64_t max_model_len = 0;                 // tokens of one sequence
  int64_t long_prefill_token_threshold = 0;  // 0: half of the budget
  int64_t max_prompt_logit_rows = 256;       // logits of prompt positions a step
  SchedulingPolicy policy = SchedulingPolicy::kFcfs;
  std::vector<int32_t> end_tokens;
};

// One sequence's part of a step.
struct ScheduledSequence {
  Sequence* sequence = nullptr;
  int64_t num_tokens = 0;
};

// A token to be sampled. Sequences forked in this step share a row; they follow one another.
struct Sample {
  Sequence* sequence = nullptr;
  int32_t logit_row = 0;
};

// The logits behind prompt token `position`, wanted for its logprob.
struct PromptLogits {
  Sequence* sequence = nullptr;
  int64_t position = 0;  // >= 1
  int32_t logit_row = 0;
};

struct Plan {
  llm::Batch batch;
  std::vector<ScheduledSequence> scheduled;  // as batch.sequences
  std::vector<Sample> samples;               // logit_row ascending
  std::vector<PromptLogits> prompt_logits;
  std::vector<Sequence*> ended;  // finished by step() itself, out of pages: kLength
  bool is_empty() const { return scheduled.empty() && ended.empty(); }
  void clear();
};

// Counters only rise.
struct SchedulerStats {
  int64_t num_running = 0, num_waiting = 0;
  int64_t num_preemptions = 0;
  int64_t prefix_cache_queries = 0, prefix_cache_hits = 0;  // tokens
};

class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, const BlockManagerOptions& pages);

  // REQUIRES: no live request of that id; a prompt of 1..max_model_len tokens.
  void add(std::unique_ptr<RequestState> request);
  RequestState* find(const std::string& request_id);
  bool is_idle() const { return requests_.empty(); }

  // The plan is valid until the next call of anything but commit(). `prefill_limit` bounds the
  // prompt tokens of a step in which others generate (at least 1 is used); the caller may lower it
  // to keep such steps short.
  const Plan& step(int64_t now_us, int64_t prefill_limit = INT64_MAX);
  // `tokens[i]` is what was sampled for plan.samples[i]; an ended request's are ignored. Sequences
  // may be finished afterwards; their requests stay until remove().
  void commit(const std::vector<int32_t>& tokens);

  // Frees the pages of a sequence at once. Finished ones are left as they are.
  void finish(Sequence& sequence, FinishReason reason);
  // All that is not finished yet, also what was never forked.
  void finish_all(RequestState& request, FinishReason reason);
  // Forgets a request, finishing what is left of it.
  void remove(RequestState& request);
  // For shutdown and errors: every live request.
  std::vector<RequestState*> requests();

  const SchedulerOptions& options() const { return options_; }
  const BlockManager& pages() const { return pages_; }
  SchedulerStats stats() const;
  // The page accounting against all page tables, and the lists against the sequences' states.
  void check_integrity() const;

 private:
  struct Earlier {
    bool by_priority;
    bool operator()(const Sequence* a, const Sequence* b) const {
      if (by_priority && a->request->request.priority != b->request->request.priority) {
        return a->request->request.priority < b->request->request.priority;
      }
      return std::tie(a->request->arrival_index, a->index) <
             std::tie(b->request->arrival_index, b->index);
    }
  };
  struct Budget {
    int64_t prefill = 0;       // tokens left for sequences that bring more than one
    int64_t long_prefill = 0;  // of those, left for long ones
    int64_t prompt_rows = 0;
  };

  int64_t choose_chunk(const Sequence& sequence, int64_t num_remaining, int64_t num_computed,
                       bool is_decode, const Budget& budget) const;
  void schedule(Sequence& sequence, int64_t num_tokens, bool is_decode, Budget& budget);
  void schedule_running(Budget& budget);
  void schedule_waiting(int64_t now_us, Budget& budget);
  void fork(RequestState& request, bool is_over);
  void end_out_of_pages(Sequence& sequence);
  void preempt(Sequence& sequence);
  void start_running(Sequence& sequence);
  void check_stop(Sequence& sequence, int32_t token) const;

  const SchedulerOptions options_;
  BlockManager pages_;
  const Earlier earlier_;
  std::unordered_map<std::string, std::unique_ptr<RequestState>> requests_;
  std::vector<Sequence*> running_;  // in order
  std::set<Sequence*, Earlier> waiting_;
  Plan plan_;
  PrefixMatch match_;
  bool preempted_in_step_ = false;
  uint64_t num_arrivals_ = 0;
  SchedulerStats stats_;
};

}  // namespace sluice::engine
