#include "text/unigram.h"

#include <algorithm>
#include <limits>

#include "text/unicode.h"

namespace sluice::text {
namespace {

// An unknown character costs this much more than the worst token (SentencePiece's constant).
constexpr double kUnknownPenalty = 10.0;

}  // namespace

Unigram::Unigram(std::shared_ptr<const Vocabulary> vocabulary, std::vector<double> scores,
                 const std::vector<bool>& matchable, int32_t unknown_id, bool byte_fallback,
                 double lowest_score)
    : vocabulary_(std::move(vocabulary)), scores_(std::move(scores)), unknown_id_(unknown_id) {
  std::vector<std::pair<std::string_view, int32_t>> entries;
  double lowest = std::numeric_limits<double>::infinity();
  for (int32_t id = 0; id < vocabulary_->size(); ++id) {
    if (!vocabulary_->contains(id)) continue;
    if (!matchable.empty() && !matchable[static_cast<size_t>(id)]) continue;
    entries.emplace_back(vocabulary_->text(id), id);
    lowest = std::min(lowest, scores_[static_cast<size_t>(id)]);
  }
  trie_ = Trie(std::move(entries));
  if (lowest_score != std::numeric_limits<double>::infinity()) lowest = lowest_score;
  unknown_score_ = (lowest == std::numeric_limits<double>::infinity() ? 0.0 : lowest) - kUnknownPenalty;
  if (byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_.push_back(vocabulary_->find_or(format_byte_token(static_cast<uint8_t>(byte)), -1));
    }
  }
}

void Unigram::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  constexpr int32_t kUnreached = -2, kUnknown = -1;
  struct Best {
    double score = 0;
    size_t begin = 0;
    int32_t id = kUnreached;  // of the token that ends here
  };
  std::vector<Best> best(piece.size() + 1);  // by the offset where a token ends
  for (size_t at = 0; at < piece.size();) {
    size_t length = decode_utf8(piece, at).num_bytes;
    double base = best[at].score;
    bool has_single = false;
    auto offer = [&](size_t end, double score, int32_t id) {
      if (best[end].id == kUnreached || score > best[end].score) best[end] = {score, at, id};
    };
    trie_.for_each_prefix(piece, at, [&](size_t token_length, int32_t id) {
      offer(at + token_length, base + scores_[static_cast<size_t>(id)], id);
      has_single |= token_length == length;
    });
    if (!has_single) offer(at + length, base + unknown_score_, kUnknown);
    at += length;
  }
  size_t first = ids.size();
  size_t unknown_end = 0;  // a run of unknown characters [.., unknown_end) not written yet; 0: none
  auto flush_unknown = [&](size_t begin) {
    if (unknown_end == 0) return;
    std::string_view run = piece.substr(begin, unknown_end - begin);
    unknown_end = 0;
    bool bytes = !byte_ids_.empty() && std::all_of(run.begin(), run.end(), [&](char b) {
      return byte_ids_[static_cast<uint8_t>(b)] >= 0;
    });
    if (bytes) {
      for (size_t i = run.size(); i-- > 0;) ids.push_back(byte_ids_[static_cast<uint8_t>(run[i])]);
    } else if (unknown_id_ >= 0) {
      ids.push_back(unknown_id_);
    }
  };
  for (size_t end = piece.size(); end > 0;) {  // backwards
    const Best& token = best[end];
    if (token.id == kUnknown) {
      if (unknown_end == 0) unknown_end = end;
    } else {
      flush_unknown(end);
      ids.push_back(token.id);
    }
    end = token.begin;
  }
  flush_unknown(0);
  std::reverse(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
}

}  // namespace sluice::text
