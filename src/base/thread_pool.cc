#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>

#include "base/check.h"

namespace sluice {
namespace {

// About 50 us of pauses: longer than the gap between two products of one step, shorter than a time slice.
constexpr int kSpins = 4000;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The CPU quota of this process's cgroup (v2) in cores, or a large number without one.
double cgroup_cores() {
  double cores = 1e9;
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    long long quota = 0, period = 0;
    if (std::fscanf(file, "%lld %lld", &quota, &period) == 2 && period > 0) {
      cores = static_cast<double>(quota) / static_cast<double>(period);
    }
    std::fclose(file);
  }
  return cores;
}

void pin_to_nth_core(int index) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || seen++ != index) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);  // a refused pin only costs speed
    return;
  }
}

}  // namespace

int num_available_cores() {
  cpu_set_t allowed;
  int cores = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  return std::max(1, std::min(cores, static_cast<int>(cgroup_cores() + 0.999)));
}

ThreadPool::ThreadPool(int num_threads, bool pin_threads) : num_threads_(num_threads) {
  CHECK(num_threads >= 1, num_threads);
  for (int worker = 1; worker < num_threads; ++worker) {
    threads_.emplace_back([this, worker, pin_threads] {
      if (pin_threads) pin_to_nth_core(worker);
      work(worker);
    });
  }
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run_erased(Erased job, void* context) {
  if (num_threads_ == 1) {
    job(context, 0);
    return;
  }
  job_ = job;
  context_ = context;
  num_running_.store(num_threads_ - 1, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  job(context, 0);
  for (int spin = 0;; ++spin) {
    int running = num_running_.load(std::memory_order_acquire);
    if (running == 0) return;
    if (spin < kSpins) {
      pause_cpu();
    } else {
      num_running_.wait(running, std::memory_order_acquire);
    }
  }
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; epoch_.load(std::memory_order_acquire) == seen; ++spin) {
      if (spin < kSpins) {
        pause_cpu();
      } else {
        epoch_.wait(seen, std::memory_order_acquire);
      }
    }
    ++seen;
    if (stopping_) return;
    job_(context_, worker);
    if (num_running_.fetch_sub(1, std::memory_order_acq_rel) == 1) num_running_.notify_one();
  }
}

}  // namespace sluice
