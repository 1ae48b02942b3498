// The entry points of OpenMP that oneDNN calls, on our own threads.
//
// Debian's oneDNN divides its work by OpenMP. With libgomp's threads beside ours, each side's idle threads would spin
// while the other computes, and libgomp's spin for whole time slices when a neighbour takes a core (measured: 42 ms for
// a network became 100 to 600). These six functions are all that the library imports; because the program defines them,
// the dynamic linker binds the library to them and not to libgomp. A parallel region is a job of the pool that the
// calling thread has named; regions within regions, and regions of threads that named none, run on the one thread, as
// OpenMP allows. Whoever loads another library that needs more of libgomp than this loads it with RTLD_DEEPBIND.
#include <atomic>

#include "base/check.h"
#include "graph/kernels/kernel.h"

namespace sluice::graph {
namespace {

// Of a region's threads: each waits until all have come. Generations, so that it can be used again at once.
struct Team {
  int num_threads = 1;
  std::atomic<int> num_waiting{0};
  std::atomic<uint32_t> generation{0};

  void wait() {
    const uint32_t mine = generation.load(std::memory_order_acquire);
    if (num_waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads) {
      num_waiting.store(0, std::memory_order_relaxed);
      generation.store(mine + 1, std::memory_order_release);
      generation.notify_all();
      return;
    }
    for (int i = 0; i < 1000; ++i) {
      if (generation.load(std::memory_order_acquire) != mine) return;
      __builtin_ia32_pause();
    }
    while (generation.load(std::memory_order_acquire) == mine) generation.wait(mine, std::memory_order_acquire);
  }
};

thread_local ThreadPool* t_pool = nullptr;
thread_local Team* t_team = nullptr;  // of the region that this thread is in
thread_local int t_thread = 0;

}  // namespace

KernelThreads::KernelThreads(ThreadPool& pool) : before_(t_pool) { t_pool = &pool; }
KernelThreads::~KernelThreads() { t_pool = before_; }

}  // namespace sluice::graph

extern "C" {

int omp_get_thread_num() { return sluice::graph::t_thread; }

int omp_get_num_threads() {
  const sluice::graph::Team* team = sluice::graph::t_team;
  return team == nullptr ? 1 : team->num_threads;
}

int omp_get_max_threads() {
  const sluice::ThreadPool* pool = sluice::graph::t_pool;
  return pool == nullptr ? 1 : pool->num_threads();
}

int omp_in_parallel() { return sluice::graph::t_team != nullptr; }

void GOMP_barrier() {
  sluice::graph::Team* team = sluice::graph::t_team;
  if (team != nullptr && team->num_threads > 1) team->wait();
}

void GOMP_parallel(void (*body)(void*), void* data, unsigned num_threads, unsigned /*flags*/) {
  using namespace sluice::graph;
  sluice::ThreadPool* pool = t_pool;
  Team team;
  if (t_team == nullptr && pool != nullptr) {
    const int asked = num_threads == 0 ? pool->num_threads() : static_cast<int>(num_threads);
    team.num_threads = asked < pool->num_threads() ? asked : pool->num_threads();
  }
  auto run_as = [&](int thread) {
    Team* const outer = t_team;
    const int outer_thread = t_thread;
    t_team = &team;
    t_thread = thread;
    body(data);
    t_team = outer;
    t_thread = outer_thread;
  };
  if (team.num_threads == 1) return run_as(0);
  pool->run([&](int worker) {
    if (worker < team.num_threads) run_as(worker);
  });
}

}  // extern "C"
