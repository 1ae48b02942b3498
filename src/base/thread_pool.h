// The threads that compute. One pool per loaded model; its owner (the engine thread) is worker 0 and the pool holds
// num_threads - 1 more, each pinned to a core if asked.
//
// run() starts a job on every worker and returns when all are done. parallel_for() hands out chunks from a shared
// counter, so that a core slowed by a neighbour takes fewer of them, and waits for those workers only that came before
// worker 0 was through: one that the kernel lets wait for a core is not missed, and small work needs no other.
//
// Who waits spins for about ten microseconds, then offers its core to others between looks, and parks in the kernel
// after some milliseconds: between two steps no worker sleeps, between two requests they burn nothing, and more threads
// than free cores do not wait for each other's time slices. Not re-entrant: jobs must not call run() of their own pool,
// and one thread at a time may call it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace sluice {

// Cores this process may run on (affinity and cgroup quota respected), at least 1.
int num_available_cores();

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads, bool pin_threads = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls job(worker_index) once on each worker, worker_index in [0, num_threads). Jobs must not throw.
  template <typename Job>
  void run(Job&& job) {
    start(job, /*needs_all=*/true);
  }

  // Calls body(begin, end, worker_index) over disjoint chunks of [0, count), each at most `grain` long if there are
  // several workers. Bodies must not throw.
  template <typename Body>
  void parallel_for(int64_t count, int64_t grain, Body&& body) {
    if (count <= 0) return;
    if (count <= grain || num_threads_ == 1) {
      body(int64_t{0}, count, 0);
      return;
    }
    alignas(64) std::atomic<int64_t> next{0};  // away from what the job only reads
    auto job = [&](int worker) {
      for (;;) {
        int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        body(begin, begin + grain < count ? begin + grain : count, worker);
      }
    };
    start(job, /*needs_all=*/false);
  }

 private:
  using Erased = void (*)(void* context, int worker);
  template <typename Job>
  void start(Job& job, bool needs_all) {
    start_erased([](void* context, int worker) { (*static_cast<Job*>(context))(worker); },
                 const_cast<void*>(static_cast<const void*>(&job)), needs_all);
  }
  void start_erased(Erased job, void* context, bool needs_all);
  void open(Erased job, void* context);
  void work(int worker);
  uint64_t wait_for_job(uint64_t last_joined);

  const int num_threads_;
  const bool is_crowded_;  // more threads than cores: looking without yielding would only keep others from working
  std::vector<std::thread> threads_;
  uint64_t epoch_ = 0;       // of worker 0: jobs so far
  uint64_t num_joined_ = 0;  // of worker 0: workers in all closed jobs, modulo 2^32

  // The current job. `entry_` is its epoch << 32, kClosed, and the number of workers that joined: a worker joins by
  // adding one, and has joined if what was there before was not closed. `job_` and `context_` are written before the
  // entry opens and read after joining. A job that is null ends the worker.
  alignas(64) std::atomic<uint64_t> entry_;
  Erased job_ = nullptr;
  void* context_ = nullptr;
  // Jobs of workers that are done, modulo 2^32; worker 0 waits for num_joined_.
  alignas(64) std::atomic<uint32_t> num_done_{0};
  // For parking: `bell_` changes after each opening, and is rung (futex) if somebody is parked.
  alignas(64) std::atomic<uint32_t> bell_{0};
  std::atomic<int> num_parked_{0};
  std::atomic<bool> is_owner_parked_{false};
};

}  // namespace sluice
