// TRACE("engine.step"): a named span of this scope, for `--trace out.json` (Chrome trace format; opens in Perfetto).
//
// Off, a TRACE is one relaxed load and a branch. On, each thread writes into its own ring of the last 65,536 events, so
// memory stays bounded and the newest events win. Names must be string literals.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice::trace {

extern std::atomic<bool> g_enabled;

void enable();
// Writes every ring to `path`; throws Error if it cannot. Call when the traced threads are idle.
void save(const std::string& path);
// The last events of the calling thread, newest last, as text.
std::vector<std::string> last_events(int max_events);
void record(const char* name, int64_t begin_us, int64_t end_us);
int64_t now_us();

class Scope {
 public:
  explicit Scope(const char* name)
      : name_(name), begin_us_(g_enabled.load(std::memory_order_relaxed) ? now_us() : -1) {}
  ~Scope() {
    if (begin_us_ >= 0) record(name_, begin_us_, now_us());
  }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  const char* name_;
  int64_t begin_us_;
};

}  // namespace sluice::trace

#define SLUICE_TRACE_JOIN2(a, b) a##b
#define SLUICE_TRACE_JOIN(a, b) SLUICE_TRACE_JOIN2(a, b)
#define TRACE(name) ::sluice::trace::Scope SLUICE_TRACE_JOIN(trace_scope_, __LINE__)(name)
