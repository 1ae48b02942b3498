// A trie over byte strings: which of these strings begin here? Built once, then read from any thread.
//
// The children of a node lie side by side in one array, sorted by their byte; the root has a direct table. Walking costs
// one short search a byte, and a string that matches nothing is refused after its first byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice::text {

class Trie {
 public:
  Trie() { root_.fill(-1); }
  // Strings with their values (>= 0). Empty strings are ignored; of equal strings the first in the list wins.
  explicit Trie(std::vector<std::pair<std::string_view, int32_t>> entries);

  bool empty() const { return nodes_.empty(); }

  // Calls visit(length, value) for each string that text begins with at `at`, shortest first.
  template <typename Visit>
  void for_each_prefix(std::string_view text, size_t at, Visit&& visit) const {
    if (at >= text.size()) return;
    int32_t node = root_[static_cast<uint8_t>(text[at])];
    for (size_t end = at + 1; node >= 0; ++end) {
      if (nodes_[static_cast<size_t>(node)].value >= 0) visit(end - at, nodes_[static_cast<size_t>(node)].value);
      if (end >= text.size()) return;
      node = find_child(node, static_cast<uint8_t>(text[end]));
    }
  }

  // The longest string that text begins with at `at`: its length (0: none) and value.
  std::pair<size_t, int32_t> find_longest(std::string_view text, size_t at) const {
    std::pair<size_t, int32_t> best{0, -1};
    for_each_prefix(text, at, [&](size_t length, int32_t value) { best = {length, value}; });
    return best;
  }

 private:
  struct Node {
    uint32_t first_child = 0;   // index into nodes_
    uint16_t num_children = 0;
    uint8_t byte = 0;           // the label of the edge that leads here
    int32_t value = -1;
  };

  int32_t find_child(int32_t parent, uint8_t byte) const {
    const Node& node = nodes_[static_cast<size_t>(parent)];
    uint32_t low = node.first_child, high = low + node.num_children;
    while (high - low > 8) {
      uint32_t middle = low + (high - low) / 2;
      (nodes_[middle].byte <= byte ? low : high) = middle;
    }
    for (; low < high; ++low) {
      if (nodes_[low].byte == byte) return static_cast<int32_t>(low);
    }
    return -1;
  }

  std::array<int32_t, 256> root_;
  std::vector<Node> nodes_;
};

}  // namespace sluice::text
