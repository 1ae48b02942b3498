// How long kernels take, measured once: the timing cache of `sluice optimize`.
//
// The key names everything that the time depends on: operator, shapes, types, layouts, choice, threads, instruction
// set. As a file it is text, a line for each: microseconds, a tab, the key; lines of another instruction set or version
// never match and do no harm. Any thread.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace sluice::graph {

class Timings {
 public:
  std::optional<double> find(const std::string& key) const;  // microseconds
  void put(const std::string& key, double microseconds);
  std::string to_text() const;
  // Adds the lines of a file. Throws Error for a line that is none.
  void add_text(const std::string& text, const std::string& source);
  size_t size() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, double> times_;
};

}  // namespace sluice::graph
