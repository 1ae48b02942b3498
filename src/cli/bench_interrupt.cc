#include "cli/bench_interrupt.h"

#include <atomic>

#include "base/clock.h"

namespace sluice::cli {
namespace {

// `timeout` and some wrappers send a signal to the process and to its group: the same wish twice, at once.
constexpr int64_t kSameWishUs = 500'000;

std::atomic<int> g_signal{0};
std::atomic<int64_t> g_first_us{0};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free,
              "a signal handler sets them");

void keep_signal(int number) {
  if (g_signal.load() == 0) {
    g_first_us = monotonic_us();
    g_signal = number;
  } else if (monotonic_us() - g_first_us > kSameWishUs) {
    signal(number, SIG_DFL);
    raise(number);  // pending until the handler returns
  }
}

struct sigaction watch(int number) {
  struct sigaction before = {}, action = {};
  sigaction(number, nullptr, &before);
  if ((before.sa_flags & SA_SIGINFO) == 0 && before.sa_handler == SIG_IGN) return before;
  action.sa_handler = keep_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, nullptr);
  return before;
}

}  // namespace

InterruptWatch::InterruptWatch() {
  g_signal = 0;
  interrupt_before_ = watch(SIGINT);
  terminate_before_ = watch(SIGTERM);
}

InterruptWatch::~InterruptWatch() {
  sigaction(SIGINT, &interrupt_before_, nullptr);
  sigaction(SIGTERM, &terminate_before_, nullptr);
}

bool InterruptWatch::is_interrupted() const { return g_signal != 0; }

int InterruptWatch::exit_code() const { return 128 + g_signal; }

}  // namespace sluice::cli
