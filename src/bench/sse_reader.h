// Server-sent events from bytes as they come in: gives the data of each complete event. Lines end in LF or CRLF, data
// lines of one event are joined with LF, comments and other fields are skipped, as the HTML standard says. One reader a
// stream.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace sluice::bench {

class SseReader {
 public:
  // Calls `on_event(data)` for each event that `bytes` complete. False when an event grows beyond the limit of 16 MiB;
  // the reader is of no further use then.
  [[nodiscard]] bool feed(std::string_view bytes, const std::function<void(std::string_view data)>& on_event);

 private:
  std::string line_, data_;
  bool has_data_ = false;
};

}  // namespace sluice::bench
