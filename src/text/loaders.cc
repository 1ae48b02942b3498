#include "text/loaders.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "base/error.h"

namespace sluice::text {

Bpe::MergeText split_merge(std::string_view merge, const Vocabulary& vocabulary, const char* where, size_t index) {
  size_t first = merge.find(' '), last = merge.rfind(' ');
  if (first != std::string_view::npos && first == last && first > 0 && first + 1 < merge.size()) {
    return {std::string(merge.substr(0, first)), std::string(merge.substr(first + 1))};
  }
  for (size_t at = first; at != std::string_view::npos; at = merge.find(' ', at + 1)) {
    Bpe::MergeText parts{std::string(merge.substr(0, at)), std::string(merge.substr(at + 1))};
    bool known = vocabulary.find(parts.left) && vocabulary.find(parts.right);
    if (known && vocabulary.find(parts.left + parts.right)) return parts;
  }
  fail(Code::kInvalidArgument, "{}: entry {} is '{}', not two texts with a space between", where, index, merge);
}

std::vector<Bpe::MergeText> split_merges(const std::vector<std::string>& merges, const Vocabulary& vocabulary,
                                         const char* where) {
  std::vector<Bpe::MergeText> out;
  out.reserve(merges.size());
  for (const std::string& merge : merges) out.push_back(split_merge(merge, vocabulary, where, out.size()));
  return out;
}

std::vector<uint32_t> rank_by_score(const std::vector<float>& scores, const std::vector<bool>& takes_part) {
  std::vector<float> sorted;
  for (size_t id = 0; id < scores.size(); ++id) {
    if (takes_part[id]) sorted.push_back(scores[id]);
  }
  std::sort(sorted.begin(), sorted.end(), std::greater<float>());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  std::vector<uint32_t> ranks(scores.size(), Bpe::kNoRank);
  for (size_t id = 0; id < scores.size(); ++id) {
    if (!takes_part[id]) continue;
    auto at = std::lower_bound(sorted.begin(), sorted.end(), scores[id], std::greater<float>());
    ranks[id] = static_cast<uint32_t>(at - sorted.begin());
  }
  return ranks;
}

void add_sentencepiece_decoder(bool strips_first_space, Decoder& decoder) {
  decoder.add(ReplaceDecode{ReplaceStep{"\xE2\x96\x81", nullptr, " "}});
  decoder.add(ByteFallbackDecode{});
  decoder.add(FuseDecode{});
  if (strips_first_space) decoder.add(StripDecode{" ", 1, 0});
}

std::string decode_base64(std::string_view text, const char* where) {
  std::string out;
  uint32_t bits = 0;
  int num_bits = 0;
  for (char c : text) {
    int value = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52
                : c == '+' ? 62 : c == '/' ? 63 : -1;
    if (c == '=' || c == '\n') continue;
    if (value < 0) fail(Code::kInvalidArgument, "{}: '{}' is not base64", where, c);
    bits = (bits << 6) | static_cast<uint32_t>(value);
    num_bits += 6;
    if (num_bits >= 8) {
      num_bits -= 8;
      out.push_back(static_cast<char>((bits >> num_bits) & 0xFF));
      bits &= (1u << num_bits) - 1;
    }
  }
  return out;
}

std::shared_ptr<const Regex> get_shared_regex(const std::string& pattern) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<const Regex>> known;
  std::lock_guard lock(mutex);
  std::weak_ptr<const Regex>& entry = known[pattern];
  std::shared_ptr<const Regex> regex = entry.lock();
  if (regex == nullptr) {
    try {
      regex = std::make_shared<const Regex>(pattern);
    } catch (...) {
      known.erase(pattern);
      throw;
    }
    entry = regex;
  }
  return regex;
}

void merge_added_tokens(const TokenizerConfig& config, std::vector<AddedToken>& tokens) {
  for (const AddedToken& added : config.added_tokens) {
    auto same = std::find_if(tokens.begin(), tokens.end(), [&](const AddedToken& t) { return t.id == added.id; });
    if (same != tokens.end()) {
      *same = added;
    } else {
      tokens.push_back(added);
    }
  }
}

}  // namespace sluice::text
