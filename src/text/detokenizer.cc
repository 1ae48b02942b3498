#include "text/detokenizer.h"

#include <algorithm>

#include "text/unicode.h"

namespace sluice::text {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, DetokenizerOptions options, const std::vector<int32_t>& prompt)
    : tokenizer_(tokenizer), options_(std::move(options)) {
  strip_next_space_ = tokenizer.strips_leading_space() &&
                      std::all_of(prompt.begin(), prompt.end(), [&](int32_t id) { return tokenizer.is_special(id); });
  for (const std::string& stop : options_.stop) {
    if (stop.empty()) continue;
    Matcher matcher{stop, std::vector<uint32_t>(stop.size()), 0};
    for (uint32_t i = 1, border = 0; i < stop.size(); ++i) {
      while (border > 0 && stop[i] != stop[border]) border = matcher.failure[border - 1];
      if (stop[i] == stop[border]) ++border;
      matcher.failure[i] = border;
    }
    matchers_.push_back(std::move(matcher));
  }
}

std::string Detokenizer::push(int32_t id) {
  if (matched_stop_) return "";
  ++num_tokens_;
  if (options_.skip_special && tokenizer_.is_special(id)) return "";
  std::string bytes = tokenizer_.token_bytes(id);
  if (strip_next_space_ && !bytes.empty()) {
    strip_next_space_ = false;
    if (bytes[0] == ' ') bytes.erase(0, 1);
  }
  pending_bytes_ += bytes;
  size_t complete = pending_bytes_.size() - count_incomplete_bytes(pending_bytes_);
  std::string text = sanitize_utf8(std::string_view(pending_bytes_).substr(0, complete));
  pending_bytes_.erase(0, complete);
  return release(text);
}

std::string Detokenizer::finish() {
  if (matched_stop_) return "";
  std::string out = release(sanitize_utf8(pending_bytes_));
  pending_bytes_.clear();
  if (matched_stop_) return out;
  out += held_back_;
  held_back_.clear();
  return out;
}

std::string Detokenizer::release(const std::string& text) {
  if (matchers_.empty()) return text;
  bool may_stop = num_tokens_ > options_.min_tokens;
  size_t base = held_back_.size();
  held_back_ += text;
  for (size_t at = base; at < held_back_.size(); ++at) {
    char byte = held_back_[at];
    const Matcher* found = nullptr;
    for (Matcher& matcher : matchers_) {
      while (matcher.matched > 0 && matcher.stop[matcher.matched] != byte) {
        matcher.matched = matcher.failure[matcher.matched - 1];
      }
      if (matcher.stop[matcher.matched] == byte) ++matcher.matched;
      if (matcher.matched < matcher.stop.size()) continue;
      // Of two that end here the longer began earlier.
      if (may_stop && (found == nullptr || matcher.stop.size() > found->stop.size())) found = &matcher;
      matcher.matched = matcher.failure[matcher.matched - 1];
    }
    if (found == nullptr) continue;
    matched_stop_ = found->stop;
    // All of the stop string is still here: a beginning of it was never handed out.
    size_t end = options_.include_stop ? at + 1 : at + 1 - found->stop.size();
    std::string out = held_back_.substr(0, end);
    held_back_.clear();
    pending_bytes_.clear();
    return out;
  }
  size_t keep = 0;
  for (const Matcher& matcher : matchers_) keep = std::max<size_t>(keep, matcher.matched);
  std::string out = held_back_.substr(0, held_back_.size() - keep);
  held_back_.erase(0, held_back_.size() - keep);
  return out;
}

}  // namespace sluice::text
