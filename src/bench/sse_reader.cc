#include "bench/sse_reader.h"

namespace sluice::bench {
namespace {

constexpr size_t kEventBytesMax = 16 << 20;

}  // namespace

bool SseReader::feed(std::string_view bytes, const std::function<void(std::string_view data)>& on_event) {
  while (!bytes.empty()) {
    size_t end = bytes.find('\n');
    line_.append(bytes.substr(0, end));
    if (line_.size() + data_.size() > kEventBytesMax) return false;
    if (end == std::string_view::npos) return true;
    bytes.remove_prefix(end + 1);
    if (line_.ends_with('\r')) line_.pop_back();
    if (line_.empty()) {
      if (has_data_) on_event(data_);
      data_.clear();
      has_data_ = false;
    } else if (line_.starts_with("data:")) {
      if (has_data_) data_ += '\n';
      data_.append(line_, line_.starts_with("data: ") ? 6 : 5);
      has_data_ = true;
    }
    line_.clear();
  }
  return true;
}

}  // namespace sluice::bench
