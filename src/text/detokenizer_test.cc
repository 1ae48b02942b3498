#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace sluice::text {
namespace {

// A tokenizer whose tokens are the given byte strings; the last one is special.
class FakeTokenizer : public Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<std::string> tokens, bool strips = false) : tokens_(std::move(tokens)), strips_(strips) {}
  std::vector<int32_t> encode(std::string_view, const EncodeOptions&) const override { return {}; }
  std::string decode(const std::vector<int32_t>&, bool) const override { return ""; }
  std::string token_bytes(int32_t id) const override { return tokens_[static_cast<size_t>(id)]; }
  std::string token_text(int32_t id) const override { return tokens_[static_cast<size_t>(id)]; }
  std::optional<int32_t> find_token(std::string_view) const override { return std::nullopt; }
  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  bool is_special(int32_t id) const override { return id + 1 == vocab_size(); }
  const SpecialIds& special_ids() const override { return special_; }
  bool adds_bos() const override { return false; }
  bool strips_leading_space() const override { return strips_; }
  std::string description() const override { return "fake"; }

 private:
  std::vector<std::string> tokens_;
  bool strips_;
  SpecialIds special_;
};

struct Streamed {
  std::vector<std::string> parts;  // what each push gave, then finish
  std::string text;
  std::optional<std::string> stop;
};

Streamed stream(const std::vector<std::string>& tokens, DetokenizerOptions options, std::vector<int32_t> prompt = {},
                bool strips = false) {
  std::vector<std::string> vocabulary = tokens;
  vocabulary.push_back("<eos>");
  FakeTokenizer tokenizer(vocabulary, strips);
  Detokenizer detokenizer(tokenizer, std::move(options), prompt);
  Streamed out;
  for (size_t i = 0; i < tokens.size(); ++i) out.parts.push_back(detokenizer.push(static_cast<int32_t>(i)));
  out.parts.push_back(detokenizer.finish());
  for (const std::string& part : out.parts) out.text += part;
  out.stop = detokenizer.matched_stop();
  return out;
}

using Strings = std::vector<std::string>;

TEST(Detokenizer, KeepsHalfCharactersBack) {
  Streamed s = stream({"a\xF0\x9F", "\x9A", "\x80!", "\xE2\x82"}, {});
  EXPECT_EQ(s.parts, (Strings{"a", "", "\xF0\x9F\x9A\x80!", "", "\xEF\xBF\xBD"}));
}

TEST(Detokenizer, BadBytesBecomeReplacementCharacters) {
  EXPECT_EQ(stream({"\xFF", "a\xC3", "b"}, {}).text, "\xEF\xBF\xBD" "a\xEF\xBF\xBD" "b");
}

TEST(Detokenizer, HoldsBackWhatMayBecomeAStopString) {
  Streamed s = stream({"Hel", "lo EN", "DLESS EN", "D more"}, {.stop = {"END "}});
  EXPECT_EQ(s.parts, (Strings{"Hel", "lo ", "ENDLESS ", "", ""}));
  EXPECT_EQ(s.stop, "END ");
}

TEST(Detokenizer, StopOptions) {
  EXPECT_EQ(stream({"a\n", "\n", "b"}, {.stop = {"\n\n"}}).text, "a");
  EXPECT_EQ(stream({"a\n", "\n", "b"}, {.stop = {"\n\n"}, .include_stop = true}).text, "a\n\n");
  EXPECT_EQ(stream({"a\n", "b"}, {.stop = {"\n\n"}}).text, "a\nb");
  EXPECT_EQ(stream({"a\n"}, {.stop = {"\n\n"}}).text, "a\n");
  EXPECT_EQ(stream({"xx", "aab"}, {.stop = {"b", "aab"}}).stop, "aab");   // both end here: the longer
  EXPECT_EQ(stream({"abcd"}, {.stop = {"abcd", "bc"}}).text, "a");        // complete first
  EXPECT_EQ(stream({"aaab"}, {.stop = {"aab"}}).text, "a");
  EXPECT_EQ(stream({"ab"}, {.stop = {""}}).text, "ab");
  EXPECT_EQ(stream({"a", "stop", "b", "stop", "c"}, {.stop = {"stop"}, .min_tokens = 2}).text, "astopb");
  EXPECT_EQ(stream({"\xC3", "\xA9x"}, {.stop = {"\xC3\xA9"}}).text, "");
}

TEST(Detokenizer, NothingAfterAStop) {
  Streamed s = stream({"one", "STOP", "two", "three"}, {.stop = {"STOP"}});
  EXPECT_EQ(s.parts, (Strings{"one", "", "", "", ""}));
}

TEST(Detokenizer, LeadingSpaceDependsOnThePrompt) {
  EXPECT_EQ(stream({" Once", " upon"}, {}, {}, true).text, "Once upon");
  EXPECT_EQ(stream({" Once", " upon"}, {}, {2}, true).text, "Once upon");      // <eos> alone
  EXPECT_EQ(stream({" Once", " upon"}, {}, {2, 0}, true).text, " Once upon");  // text before
  EXPECT_EQ(stream({" Once", " upon"}, {}, {}, false).text, " Once upon");
}

TEST(Detokenizer, SpecialTokensAreSkippedOrShown) {
  FakeTokenizer tokenizer({"a", "<eos>"});
  Detokenizer skipping(tokenizer, {}, {});
  EXPECT_EQ(skipping.push(0) + skipping.push(1) + skipping.finish(), "a");
  Detokenizer showing(tokenizer, {.skip_special = false}, {});
  EXPECT_EQ(showing.push(0) + showing.push(1) + showing.finish(), "a<eos>");
}

// However a text is cut into tokens, the same comes out, and it is what a search over the whole text says.
TEST(Detokenizer, CuttingDoesNotMatter) {
  Random random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (uint64_t i = 0, n = random.below(24); i < n; ++i) text += random.below(8) == 0 ? "\xC3\xA9" : std::string(1, static_cast<char>('a' + random.below(2)));
    std::vector<std::string> stops;
    for (uint64_t i = 0, n = 1 + random.below(3); i < n; ++i) {
      std::string stop;
      for (uint64_t j = 0, m = 1 + random.below(4); j < m; ++j) stop.push_back(static_cast<char>('a' + random.below(2)));
      stops.push_back(stop);
    }
    size_t best_end = SIZE_MAX, best_begin = 0;
    for (const std::string& stop : stops) {
      size_t at = text.find(stop);
      if (at == std::string::npos) continue;
      size_t end = at + stop.size();
      if (end < best_end || (end == best_end && at < best_begin)) best_end = end, best_begin = at;
    }
    std::string expected = best_end == SIZE_MAX ? text : text.substr(0, best_begin);
    std::vector<std::string> tokens;
    for (size_t at = 0; at < text.size();) {
      size_t length = 1 + random.below(4);
      tokens.push_back(text.substr(at, length));
      at += length;
    }
    EXPECT_EQ(stream(tokens, {.stop = stops}).text, expected) << text;
  }
}

}  // namespace
}  // namespace sluice::text
