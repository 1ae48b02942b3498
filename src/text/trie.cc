#include "text/trie.h"

#include <algorithm>

namespace sluice::text {

Trie::Trie(std::vector<std::pair<std::string_view, int32_t>> entries) {
  root_.fill(-1);
  std::erase_if(entries, [](const auto& entry) { return entry.first.empty(); });
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  // Breadth first: node i covers the entries [begin, end), which share their first `depth` bytes.
  struct Range {
    size_t begin, end, depth;
  };
  std::vector<Range> ranges;
  auto add_children = [&](const Range& range) {
    size_t first = nodes_.size();
    for (size_t begin = range.begin; begin < range.end;) {
      uint8_t byte = static_cast<uint8_t>(entries[begin].first[range.depth]);
      size_t end = begin;
      while (end < range.end && static_cast<uint8_t>(entries[end].first[range.depth]) == byte) ++end;
      Node node;
      node.byte = byte;
      nodes_.push_back(node);
      ranges.push_back({begin, end, range.depth + 1});
      begin = end;
    }
    return first;
  };
  add_children({0, entries.size(), 0});
  for (size_t i = 0; i < nodes_.size(); ++i) root_[nodes_[i].byte] = static_cast<int32_t>(i);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    Range range = ranges[i];
    if (entries[range.begin].first.size() == range.depth) {
      nodes_[i].value = entries[range.begin].second;
      while (range.begin < range.end && entries[range.begin].first.size() == range.depth) ++range.begin;
    }
    size_t first = add_children(range);
    nodes_[i].first_child = static_cast<uint32_t>(first);
    nodes_[i].num_children = static_cast<uint16_t>(nodes_.size() - first);
  }
}

}  // namespace sluice::text
