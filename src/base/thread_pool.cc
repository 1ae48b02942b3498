#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "base/check.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kClosed = uint64_t{1} << 31;

// Longer than the gap between two products. Not longer: where a neighbour has the other core, worker 0 and the one it
// waits for share a core, and each pause delays the other. By the clock, since a pause takes 10 ns on some processors
// and 50 on others.
constexpr std::chrono::microseconds kPauseTime{10};
// Longer than sampling and handing over for a large batch, shorter than anybody notices.
constexpr std::chrono::milliseconds kYieldTime{2};
constexpr int kPausesPerLook = 16;  // at the clock

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until is_over(), first pausing, then yielding; false when it is time to park.
template <typename IsOver>
bool spin_until(IsOver is_over, bool is_crowded) {
  if (is_over()) return true;
  const Clock::time_point begin = Clock::now();
  const Clock::time_point pause_end = is_crowded ? begin : begin + kPauseTime;
  while (Clock::now() < pause_end) {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (is_over()) return true;
      pause_cpu();
    }
  }
  while (Clock::now() < begin + kYieldTime) {
    if (is_over()) return true;
    std::this_thread::yield();
  }
  return is_over();
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

ThreadPool::ThreadPool(int num_threads, bool pin_threads)
    : num_threads_(num_threads), is_crowded_(num_threads > num_available_cores()), entry_(kClosed) {
  CHECK(num_threads >= 1, num_threads);
  for (int worker = 1; worker < num_threads; ++worker) {
    threads_.emplace_back([this, worker, pin_threads] {
      if (pin_threads) pin_to_nth_core(worker);
      work(worker);
    });
  }
}

ThreadPool::~ThreadPool() {
  open(nullptr, nullptr);  // never closed: each worker finds it
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::open(Erased job, void* context) {
  job_ = job;
  context_ = context;
  entry_.store(++epoch_ << 32, std::memory_order_release);
  // A worker counts itself as parked before it looks for the last time, and here the entry is open before the count is
  // read: one of the two sees the other.
  bell_.fetch_add(1, std::memory_order_seq_cst);
  if (num_parked_.load(std::memory_order_seq_cst) > 0) bell_.notify_all();
}

void ThreadPool::start_erased(Erased job, void* context, bool needs_all) {
  if (num_threads_ == 1) {
    job(context, 0);
    return;
  }
  open(job, context);
  job(context, 0);
  const uint64_t num_others = static_cast<uint64_t>(num_threads_ - 1);
  if (needs_all) {
    // All will join: there is nothing to park for but their being late.
    auto have_all_joined = [&] {
      return (entry_.load(std::memory_order_acquire) & (kClosed - 1)) >= num_others;
    };
    while (!spin_until(have_all_joined, is_crowded_)) std::this_thread::sleep_for(kPauseTime);
  }
  num_joined_ += entry_.fetch_or(kClosed, std::memory_order_acq_rel) & (kClosed - 1);
  const uint32_t wanted = static_cast<uint32_t>(num_joined_);
  auto are_all_done = [&] { return num_done_.load(std::memory_order_seq_cst) == wanted; };
  if (spin_until(are_all_done, is_crowded_)) return;
  is_owner_parked_.store(true, std::memory_order_seq_cst);
  for (uint32_t done; (done = num_done_.load(std::memory_order_seq_cst)) != wanted;) num_done_.wait(done);
  is_owner_parked_.store(false, std::memory_order_relaxed);
}

// Joins the next job after that of epoch `last_joined`, and returns its epoch.
uint64_t ThreadPool::wait_for_job(uint64_t last_joined) {
  auto is_open = [&] {
    uint64_t entry = entry_.load(std::memory_order_acquire);
    return (entry & kClosed) == 0 && entry >> 32 != last_joined;
  };
  for (;;) {
    if (!spin_until(is_open, is_crowded_)) {
      num_parked_.fetch_add(1, std::memory_order_seq_cst);
      uint32_t rung = bell_.load(std::memory_order_seq_cst);
      if (!is_open()) bell_.wait(rung);
      num_parked_.fetch_sub(1, std::memory_order_relaxed);
      continue;
    }
    // It may have closed meanwhile; then what is added is lost with the old entry. Not joined twice: between the look
    // and here it can only become a later one.
    uint64_t entry = entry_.fetch_add(1, std::memory_order_acq_rel);
    if ((entry & kClosed) == 0) return entry >> 32;
  }
}

void ThreadPool::work(int worker) {
  for (uint64_t epoch = 0;;) {
    epoch = wait_for_job(epoch);
    if (job_ == nullptr) return;
    job_(context_, worker);
    num_done_.fetch_add(1, std::memory_order_seq_cst);
    if (is_owner_parked_.load(std::memory_order_seq_cst)) num_done_.notify_one();
  }
}

}  // namespace sluice
