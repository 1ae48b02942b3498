// The threads that compute. One pool per loaded model; its owner (the engine thread) is worker 0 and the pool holds
// num_threads - 1 more, each pinned to a core if asked.
//
// run() starts a job on every worker and returns when all are done. Workers wait for the next job by spinning for a few
// tens of microseconds, then park in the kernel: between two layers of one step they never sleep, between two requests
// they burn nothing. parallel_for() hands out chunks from a shared counter, so that a core slowed by a neighbour takes
// fewer of them. Not re-entrant: jobs must not call run() of their own pool, and one thread at a time may call it.
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
    run_erased([](void* context, int worker) { (*static_cast<std::remove_reference_t<Job>*>(context))(worker); },
               const_cast<void*>(static_cast<const void*>(&job)));
  }

  // Calls body(begin, end, worker_index) over disjoint chunks of [0, count), each at most `grain` long.
  template <typename Body>
  void parallel_for(int64_t count, int64_t grain, Body&& body) {
    if (count <= 0) return;
    if (count <= grain || num_threads_ == 1) {
      body(int64_t{0}, count, 0);
      return;
    }
    std::atomic<int64_t> next{0};
    run([&](int worker) {
      for (;;) {
        int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        body(begin, begin + grain < count ? begin + grain : count, worker);
      }
    });
  }

 private:
  using Erased = void (*)(void* context, int worker);
  void run_erased(Erased job, void* context);
  void work(int worker);

  const int num_threads_;
  std::vector<std::thread> threads_;
  // The job of the current epoch. Written by run() before it raises epoch_, read by workers after they see it.
  Erased job_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<int> num_running_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace sluice
