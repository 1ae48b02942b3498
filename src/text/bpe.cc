#include "text/bpe.h"

#include <algorithm>
#include <queue>

#include "base/error.h"
#include "text/unicode.h"

namespace sluice::text {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // ▁
// Up to this many symbols a scan for the best merge beats the heap.
constexpr size_t kShortWord = 40;

// The single character that `text` is, if it is one.
std::optional<uint32_t> as_character(std::string_view text) {
  if (text.empty()) return std::nullopt;
  Utf8Character c = decode_utf8(text, 0);
  if (!c.valid || c.num_bytes != text.size()) return std::nullopt;
  return c.code_point;
}

}  // namespace

Bpe::Bpe(std::shared_ptr<const Vocabulary> vocabulary, const std::vector<MergeText>& merges, Options options)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
  for (int32_t id = 0; id < vocabulary_->size(); ++id) {
    if (!vocabulary_->contains(id)) continue;
    if (auto character = as_character(vocabulary_->text(id))) characters_.insert(*character, id);
  }
  merges_.reserve(merges.size());
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    std::optional<int32_t> left_id = vocabulary_->find(left), right_id = vocabulary_->find(right);
    const std::string& prefix = options_.continuing_subword_prefix;
    bool cut = !prefix.empty() && right.starts_with(prefix);
    joined.assign(left).append(right, cut ? prefix.size() : 0);
    std::optional<int32_t> result = vocabulary_->find(joined);
    if (!left_id || !right_id || !result) {
      if (options_.skip_unknown_merges) continue;
      fail(Code::kInvalidArgument, "merge {} ('{}' with '{}'): '{}' is not in the vocabulary", rank, left, right,
           !left_id ? left : !right_id ? right : joined);
    }
    // The first of two equal merges has the better rank.
    merges_.insert(key(*left_id, *right_id), {static_cast<uint32_t>(rank), *result});
  }
  find_byte_ids();
  find_inner_spaces();
}

// A character that is not a token may still be part of one ("🦙" alone unknown, "🦙🦙" known). Such characters get pseudo
// ids from the vocabulary's size upwards, which live only during merging.
Bpe::Bpe(std::shared_ptr<const Vocabulary> vocabulary, const std::vector<uint32_t>& ranks, std::vector<bool> unused,
         Options options)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)), unused_(std::move(unused)) {
  int32_t size = static_cast<int32_t>(vocabulary_->size());
  auto takes_part = [&](int32_t id) { return ranks[static_cast<size_t>(id)] != kNoRank; };
  for (int32_t id = 0; id < size; ++id) {
    if (!takes_part(id)) continue;
    if (auto character = as_character(vocabulary_->text(id))) characters_.insert(*character, id);
  }
  for (int32_t id = 0; id < size; ++id) {
    if (!takes_part(id)) continue;
    const std::string& text = vocabulary_->text(id);
    for (size_t at = 0; at < text.size();) {
      Utf8Character c = decode_utf8(text, at);
      int32_t pseudo = size + static_cast<int32_t>(pseudo_characters_.size());
      if (c.valid && characters_.insert(c.code_point, pseudo)) pseudo_characters_.push_back(c.code_point);
      at += c.num_bytes;
    }
  }
  auto find_part = [&](std::string_view part) -> int32_t {
    if (auto id = vocabulary_->find(part); id && takes_part(*id)) return *id;
    if (auto character = as_character(part)) {
      if (const int32_t* id = characters_.find(*character)) return *id;
    }
    return -1;
  };
  for (int32_t id = 0; id < size; ++id) {
    const std::string& text = vocabulary_->text(id);
    // A token of many kilobytes would cost its length squared; no merge would ever build it character by character.
    if (!takes_part(id) || text.size() > 1024 || vocabulary_->find(text) != id) continue;
    uint32_t best_rank = kNoRank;
    uint64_t best_parts = 0;
    for (size_t cut = 1; cut < text.size(); ++cut) {
      if ((static_cast<uint8_t>(text[cut]) & 0xC0) == 0x80) continue;
      int32_t left = find_part(std::string_view(text).substr(0, cut));
      if (left < 0) continue;
      int32_t right = find_part(std::string_view(text).substr(cut));
      if (right < 0) continue;
      merges_.insert(key(left, right), {ranks[static_cast<size_t>(id)], id});
      // How an unused token is taken apart: into the parts that merging most likely came by.
      auto rank_of = [&](int32_t part) { return part < size ? ranks[static_cast<size_t>(part)] : 0; };
      uint32_t rank = std::max(rank_of(left), rank_of(right));
      if (rank < best_rank) {
        best_rank = rank;
        best_parts = key(left, right);
      }
    }
    if (!unused_.empty() && unused_[static_cast<size_t>(id)] && best_rank != kNoRank) {
      parts_of_unused_.insert(static_cast<uint64_t>(id), best_parts);
    }
  }
  find_byte_ids();
  find_inner_spaces();
}

void Bpe::find_byte_ids() {
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[static_cast<size_t>(byte)] =
        options_.byte_fallback ? vocabulary_->find_or(format_byte_token(static_cast<uint8_t>(byte)), -1) : -1;
  }
}

void Bpe::find_inner_spaces() {
  const int32_t* space = characters_.find(0x2581);
  if (space == nullptr || options_.ignore_merges || options_.whole_newlines) return;
  if (!options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty()) return;
  for (int32_t id = 0; id < vocabulary_->size(); ++id) {
    std::string_view text = vocabulary_->text(id);
    while (text.starts_with(kSpaceSymbol)) text.remove_prefix(kSpaceSymbol.size());
    if (text.find(kSpaceSymbol) != std::string_view::npos) return;
  }
  can_cut_before_space_ = true;
}

void Bpe::split_characters(std::string_view piece, std::vector<int32_t>& ids) const {
  bool affixes = !options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty();
  bool after_unknown = false;
  std::string with_affixes;
  for (size_t at = 0; at < piece.size();) {
    Utf8Character c = decode_utf8(piece, at);
    std::string_view character = piece.substr(at, c.num_bytes);
    bool first = at == 0;
    at += c.num_bytes;
    int32_t id = -1;
    if (affixes) {
      with_affixes.clear();
      if (!first) with_affixes += options_.continuing_subword_prefix;
      with_affixes += character;
      if (at >= piece.size()) with_affixes += options_.end_of_word_suffix;
      id = vocabulary_->find_or(with_affixes, -1);
    } else if (const int32_t* found = characters_.find(c.code_point)) {
      id = *found;
    }
    if (id >= 0) {
      ids.push_back(id);
      after_unknown = false;
      continue;
    }
    if (options_.byte_fallback) {
      std::string_view bytes = affixes ? std::string_view(with_affixes) : character;
      if (std::all_of(bytes.begin(), bytes.end(), [&](char b) { return byte_ids_[static_cast<uint8_t>(b)] >= 0; })) {
        for (char b : bytes) ids.push_back(byte_ids_[static_cast<uint8_t>(b)]);
        after_unknown = false;
        continue;
      }
    }
    if (options_.unknown_id < 0) continue;
    if (!(after_unknown && options_.fuse_unknown)) ids.push_back(options_.unknown_id);
    after_unknown = true;
  }
}

void Bpe::merge_short(std::vector<int32_t>& ids) const {
  uint32_t ranks[kShortWord];
  int32_t results[kShortWord];
  size_t count = ids.size();
  auto look_up = [&](size_t i) {
    const Merge* merge = i + 1 < count ? find_merge(ids[i], ids[i + 1]) : nullptr;
    ranks[i] = merge != nullptr ? merge->rank : kNoRank;
    results[i] = merge != nullptr ? merge->result : -1;
  };
  for (size_t i = 0; i < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == kNoRank) break;
    ids[best] = results[best];
    for (size_t i = best + 1; i + 1 < count; ++i) {
      ids[i] = ids[i + 1];
      ranks[i] = ranks[i + 1];
      results[i] = results[i + 1];
    }
    --count;
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids.resize(count);
}

// The heap holds (rank, index of the left symbol) in one integer, so that it stays small and equal ranks come out from
// left to right. Each symbol knows the merge it has with its next one at the moment; an entry that does not agree with
// that is stale and is skipped.
void Bpe::merge_long(std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // indices; -1: none
    uint32_t rank;           // of the merge with the next one; kNoRank: none, or this symbol was merged away
    int32_t result;          // of that merge
  };
  constexpr int32_t kDead = -2;
  int32_t count = static_cast<int32_t>(ids.size());
  std::vector<Symbol> symbols(ids.size());
  std::vector<uint64_t> initial;
  initial.reserve(ids.size());
  auto find = [&](int32_t at) {
    Symbol& symbol = symbols[static_cast<size_t>(at)];
    const Merge* merge =
        symbol.next < 0 ? nullptr : find_merge(symbol.id, symbols[static_cast<size_t>(symbol.next)].id);
    symbol.rank = merge != nullptr ? merge->rank : kNoRank;
    symbol.result = merge != nullptr ? merge->result : -1;
    return static_cast<uint64_t>(symbol.rank) << 32 | static_cast<uint32_t>(at);
  };
  for (int32_t i = 0; i < count; ++i) {
    symbols[static_cast<size_t>(i)] = {ids[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1, kNoRank, -1};
  }
  for (int32_t i = 0; i < count; ++i) {
    uint64_t entry = find(i);
    if (entry >> 32 != kNoRank) initial.push_back(entry);
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap(std::greater<>(), std::move(initial));
  while (!heap.empty()) {
    uint64_t entry = heap.top();
    heap.pop();
    int32_t at = static_cast<int32_t>(entry & 0xFFFFFFFFu);
    Symbol& left = symbols[static_cast<size_t>(at)];
    if (left.rank != entry >> 32) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    left.id = left.result;
    left.next = right.next;
    right.id = kDead;
    right.rank = kNoRank;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = at;
    if (uint64_t next = find(at); next >> 32 != kNoRank) heap.push(next);
    if (left.previous < 0) continue;
    if (uint64_t next = find(left.previous); next >> 32 != kNoRank) heap.push(next);
  }
  ids.clear();
  for (const Symbol& symbol : symbols) {
    if (symbol.id != kDead) ids.push_back(symbol.id);
  }
}

// Turns what merging left into tokens: pseudo characters into bytes or the unknown token, unused tokens into their parts.
void Bpe::append(int32_t id, std::vector<int32_t>& ids) const {
  int64_t size = vocabulary_->size();
  if (id >= size) {
    std::string character;
    append_utf8(character, pseudo_characters_[static_cast<size_t>(id - size)]);
    bool bytes = options_.byte_fallback &&
                 std::all_of(character.begin(), character.end(), [&](char b) { return byte_ids_[static_cast<uint8_t>(b)] >= 0; });
    if (bytes) {
      for (char b : character) ids.push_back(byte_ids_[static_cast<uint8_t>(b)]);
    } else if (options_.unknown_id >= 0 &&
               !(options_.fuse_unknown && !ids.empty() && ids.back() == options_.unknown_id)) {
      ids.push_back(options_.unknown_id);
    }
    return;
  }
  if (!unused_.empty() && unused_[static_cast<size_t>(id)]) {
    // Parts are shorter than the whole, so this ends.
    if (const uint64_t* parts = parts_of_unused_.find(static_cast<uint64_t>(id))) {
      append(static_cast<int32_t>(*parts >> 32), ids);
      append(static_cast<int32_t>(*parts & 0xFFFFFFFFu), ids);
      return;
    }
  }
  if (id == options_.unknown_id && options_.fuse_unknown && !ids.empty() && ids.back() == id) return;
  ids.push_back(id);
}

void Bpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (options_.ignore_merges || (options_.whole_newlines && piece.find_first_not_of('\n') == std::string_view::npos)) {
    if (auto whole = vocabulary_->find(piece)) {
      ids.push_back(*whole);
      return;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(piece.size());
  split_characters(piece, symbols);
  if (symbols.size() <= kShortWord) {
    merge_short(symbols);
  } else {
    merge_long(symbols);
  }
  if (pseudo_characters_.empty() && unused_.empty()) {
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  } else {
    std::vector<int32_t> tokens;
    for (int32_t id : symbols) append(id, tokens);
    ids.insert(ids.end(), tokens.begin(), tokens.end());
  }
}

}  // namespace sluice::text
