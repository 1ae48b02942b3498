// The inside of Engine: what its thread owns, what is shared under the mutex, and the loop.
// engine.cc has the side that any thread may call, engine_loop.cc the engine thread's. Not for use
// outside these two.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/kv_memory.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "llm/kv_store.h"

namespace sluice::engine {

struct Engine::Impl {
  struct Command {
    std::string request_id;
    int sequence_index = -1;  // -1: cancel the request; else that sequence met a stop string
  };
  // What was computed from one row of logits, or why not.
  struct Output {
    PositionLogprobs logprobs;
    std::optional<Error> error;
  };

  Impl(llm::Model& model, ThreadPool& pool, const EngineOptions& options,
       const KvMemoryPlan& memory);

  // Constant after construction.
  llm::Model& model;
  ThreadPool& pool;
  const EngineOptions options;
  const int64_t vocab_size;

  // The engine thread's own.
  llm::KvStore kv;
  Sampler sampler;  // validate() is called from any thread
  Scheduler scheduler;
  std::unique_ptr<float[]> logits;  // [logits_rows, vocab_size]
  int64_t logits_rows = 0;
  std::vector<Sampler::Scratch> scratches;        // one a worker
  std::vector<std::pair<size_t, size_t>> groups;  // samples [first, second) share a row
  std::vector<int32_t> tokens;                    // of plan.samples
  std::vector<Output> sample_outputs;             // of plan.samples
  std::vector<Output> prompt_outputs;             // of plan.prompt_logits
  std::vector<RequestState*> done;  // to be removed when nothing refers to them any more
  std::vector<std::unique_ptr<RequestState>> arrivals;
  std::vector<Command> orders;
  double us_per_token = 0;  // of steps with prompts; 0: not known
  int64_t num_prompt_tokens = 0, num_generated_tokens = 0, num_steps = 0;
  int64_t num_removed = 0;  // requests, since publish()
  bool is_unchecked = false;  // a step since the last integrity check
  int64_t last_check_us = 0;

  // Between threads, under the mutex.
  mutable std::mutex mutex;
  std::condition_variable wake;     // something for the engine thread to do
  std::condition_variable settled;  // idle, or an integrity check done
  std::vector<std::unique_ptr<RequestState>> submitted;
  std::vector<Command> commands;
  std::unordered_set<std::string> live_ids;
  int64_t num_arriving = 0;  // taken from `submitted`, not in the published stats yet
  int64_t num_live = 0;      // submitted, its removal not published
  int64_t num_checks_wanted = 0, num_checks_done = 0;
  bool is_stopping = false;
  EngineStats stats;
  std::shared_ptr<const std::function<void(int64_t)>> observer;
  std::atomic<bool> is_healthy{true};

  std::thread thread;

  SubmitResult submit(Request request);
  void check_request(const Request& request) const;
  void command(const std::string& request_id, int sequence_index);

  void run();
  void loop();
  bool take_inbox();
  void check_idle();
  void obey(const Command& order);
  void step();
  int64_t prefill_limit() const;
  void sample(const Plan& plan);
  void collect_prompt_logprobs(const Plan& plan);
  void emit(const Plan& plan);
  void report_finished(RequestState& request, const std::optional<Error>& error, int64_t now_us);
  void send(RequestState& request, Sequence& sequence, Event&& event, int64_t now_us);
  void end_with_error(RequestState& request, const Error& error);
  void remove_done();
  void publish();
  void end_all(const std::optional<Error>& error);
};

}  // namespace sluice::engine
