#include "base/trace.h"

#include <algorithm>
#include <fstream>
#include <memory>
#include <mutex>

#include "base/clock.h"
#include "base/error.h"

namespace sluice::trace {
namespace {

constexpr size_t kRingSize = 65536;

struct Event {
  const char* name;
  int64_t begin_us, end_us;
};

struct Ring {
  std::mutex mutex;  // taken by the owner (uncontended) and by save()
  int thread_id = 0;
  size_t count = 0;  // events ever written; the ring holds the last kRingSize
  std::vector<Event> events;
};

std::mutex g_mutex;
std::vector<std::shared_ptr<Ring>> g_rings;  // guarded by g_mutex; rings outlive their threads

Ring& this_ring() {
  thread_local std::shared_ptr<Ring> ring = [] {
    auto made = std::make_shared<Ring>();
    std::lock_guard lock(g_mutex);
    made->thread_id = static_cast<int>(g_rings.size()) + 1;
    g_rings.push_back(made);
    return made;
  }();
  return *ring;
}

}  // namespace

std::atomic<bool> g_enabled{false};

void enable() { g_enabled = true; }

int64_t now_us() { return monotonic_us(); }

void record(const char* name, int64_t begin_us, int64_t end_us) {
  Ring& ring = this_ring();
  std::lock_guard lock(ring.mutex);
  Event event{name, begin_us, end_us};
  if (ring.events.size() < kRingSize) {
    ring.events.push_back(event);
  } else {
    ring.events[ring.count % kRingSize] = event;
  }
  ++ring.count;
}

std::vector<std::string> last_events(int max_events) {
  std::vector<std::string> lines;
  if (!g_enabled) return lines;
  Ring& ring = this_ring();
  std::lock_guard lock(ring.mutex);
  size_t have = std::min(ring.count, ring.events.size());
  size_t want = std::min(have, static_cast<size_t>(max_events));
  for (size_t i = ring.count - want; i < ring.count; ++i) {
    const Event& event = ring.events[i % kRingSize];
    lines.push_back(std::string("trace: ") + event.name + " at " + std::to_string(event.begin_us) + " us for " +
                    std::to_string(event.end_us - event.begin_us) + " us");
  }
  return lines;
}

void save(const std::string& path) {
  std::ofstream out(path);
  out << "{\"traceEvents\":[";
  bool first = true;
  std::lock_guard lock(g_mutex);
  for (const auto& ring : g_rings) {
    std::lock_guard ring_lock(ring->mutex);
    for (const Event& event : ring->events) {
      out << (first ? "\n" : ",\n") << R"({"ph":"X","pid":1,"tid":)" << ring->thread_id << R"(,"name":")" << event.name
          << R"(","ts":)" << event.begin_us << R"(,"dur":)" << event.end_us - event.begin_us << "}";
      first = false;
    }
  }
  out << "\n]}\n";
  out.close();
  if (!out) fail(Code::kUnknown, "cannot write the trace to {}", path);
}

}  // namespace sluice::trace
