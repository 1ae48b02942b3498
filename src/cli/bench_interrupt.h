// Ctrl-C while something is measured: the mode stops early and reports what it has, instead of losing it. While one of
// these lives, the first SIGINT or SIGTERM only sets a flag, which the mode looks at; another one, more than half a
// second later, ends the process as it always does. One at a time, made and destroyed on the main thread;
// is_interrupted() for any thread. A signal that was ignored before, as of a background job, stays ignored.
#pragma once

#include <signal.h>

namespace sluice::cli {

class InterruptWatch {
 public:
  InterruptWatch();
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  bool is_interrupted() const;
  // What a shell shows of a program that a signal ended: 130 after Ctrl-C. REQUIRES: is_interrupted().
  int exit_code() const;

 private:
  struct sigaction interrupt_before_ = {}, terminate_before_ = {};
};

}  // namespace sluice::cli
