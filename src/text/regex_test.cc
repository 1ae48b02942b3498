#include "text/regex.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "text/pre_patterns.h"
#include "text/pre_tokenizer.h"
#include "text/loaders.h"

namespace sluice::text {
namespace {

std::vector<std::string> matches(const char* pattern, const std::string& text) {
  Regex regex(pattern);
  std::vector<std::string> out;
  regex.for_each_match(text, [&](const Regex::Match& m) { out.push_back(text.substr(m.begin, m.end - m.begin)); });
  return out;
}

TEST(Regex, FollowsOnigurumaWherePcreDiffers) {
  struct {
    const char* name;
    const char* pattern;
    std::string text;
    std::vector<std::string> expected;
  } cases[] = {
      {"\\s is White_Space: no Mongolian vowel separator", "\\s", "a\xE1\xA0\x8E \xC2\xA0", {" ", "\xC2\xA0"}},
      {"\\S in a class", "[\\Sx]+", "ab cd", {"ab", "cd"}},
      {"\\w has marks", "\\w+", "e\xCC\x81-a", {"e\xCC\x81", "a"}},
      {"script, not its extensions", "\\p{Han}+", "\xE6\x97\xA5\xE3\x80\x82", {"\xE6\x97\xA5"}},
      {"intersection", "[\\p{L}&&[^\\p{Han}]]+", "ab\xE6\x97\xA5" "c", {"ab", "c"}},
      {"nested class", "[a[bc]]+", "abcd", {"abc"}},
      {"caret in property", "\\p{^L}+", "ab12", {"12"}},
      {"long property names", "\\p{Uppercase_Letter}+", "aBCd", {"BC"}},
      {"case-insensitive group", "(?i:'ll)", "I'LL", {"'LL"}},
      {"dot-all is m", "(?m:a.b)", "a\nb", {"a\nb"}},
      {"dollar is a line end", "a$", "a\na", {"a", "a"}},
      {"possessive", "[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+", " ab", {" ab"}},
      {"open count", "a{,2}b", "aab", {"aab"}},
      {"empty matches", "(?=(\\d{3})+(?!\\d))", "1234567", {"", ""}},
      {"grouped digits", "\\d{1,3}(?=(?:\\d{3})*\\b)", "1234567 12x 1234", {"1", "234", "567", "1", "234"}},
  };
  for (const auto& c : cases) EXPECT_EQ(matches(c.pattern, c.text), c.expected) << c.name;
}

TEST(Regex, BadPatternsAreErrors) {
  for (const char* pattern : {"(", "[a", "a**b(", "\\p{NoSuchThing}", "[a&&]", "\\p{L", "(?<n", "[[^a]b]"}) {
    EXPECT_THROW(Regex{pattern}, Error) << pattern;
  }
}

TEST(Regex, HostilePatternsEnd) {
  Regex regex("(a+)+b(?=\\1)");
  Regex::Match match;
  EXPECT_FALSE(regex.find(std::string(26, 'a'), 0, match));
}

TEST(PrePatterns, AllNamesCompileAndUnknownOnesAreNamed) {
  for (const char* name : {"default", "llama-bpe", "gpt-2", "starcoder", "falcon", "qwen2", "qwen35", "deepseek-llm",
                           "deepseek-coder", "deepseek-v3", "youtu", "bloom", "viking", "tekken", "gpt-4o", "tiny_aya",
                           "kimi-k2", "superbpe", "bailingmoe", "seed-coder", "afmoe", "laguna", "exaone-moe",
                           "minicpm5", "jais-2", "chameleon", "gemma4", "whitespace", "ufakzeka", "spark2_5"}) {
    for (const std::string& pattern : get_pre_pattern(name).patterns) EXPECT_NO_THROW(get_shared_regex(pattern)) << name;
  }
  try {
    get_pre_pattern("no-such");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(error.message().find("no-such"), std::string::npos);
    EXPECT_NE(error.message().find("qwen2"), std::string::npos);
  }
}

std::vector<std::string> cut(const std::string& text, std::vector<PreTokenizerStep> steps) {
  PreTokenizer pre_tokenizer;
  for (PreTokenizerStep& step : steps) pre_tokenizer.add(std::move(step));
  Pieces pieces = pre_tokenizer.apply(text, true);
  std::vector<std::string> out;
  for (const auto& span : pieces.spans) out.emplace_back(pieces.piece(span));
  return out;
}

std::vector<std::string> cut_as(const char* name, const std::string& text) {
  std::vector<PreTokenizerStep> steps;
  for (const std::string& pattern : get_pre_pattern(name).patterns) steps.push_back(RegexSplit{get_shared_regex(pattern)});
  return cut(text, std::move(steps));
}

using Strings = std::vector<std::string>;

TEST(PrePatterns, FamiliesCutAsTheyShould) {
  EXPECT_EQ(cut_as("gpt-2", "I'm  12345 ok"), (Strings{"I", "'m", " ", " 12345", " ok"}));
  EXPECT_EQ(cut_as("llama-bpe", "I'M  12345\n\n ok"), (Strings{"I", "'M", " ", " ", "123", "45", "\n\n", " ok"}));
  EXPECT_EQ(cut_as("qwen2", "a 123"), (Strings{"a", " ", "1", "2", "3"}));
  EXPECT_EQ(cut_as("starcoder", "a 12"), (Strings{"a", " ", "1", "2"}));
  EXPECT_EQ(cut_as("gpt-4o", "helloWorld's"), (Strings{"hello", "World's"}));
  EXPECT_EQ(cut_as("tekken", "HTMLParser"), (Strings{"HTMLParser"}));
  EXPECT_EQ(cut_as("deepseek-v3", "a=1234"), (Strings{"a", "=", "123", "4"}));
  EXPECT_EQ(cut_as("falcon", "a1234!!"), (Strings{"a", "123", "4", "!!"}));
  EXPECT_EQ(cut_as("kimi-k2", "ab\xE6\x97\xA5\xE6\x9C\xAC" "cd"), (Strings{"ab", "\xE6\x97\xA5\xE6\x9C\xAC", "cd"}));
  EXPECT_EQ(cut_as("superbpe", "1234567"), (Strings{"1", "234", "567"}));
}

TEST(PreTokenizer, SplitBehaviours) {
  auto split = [](SplitBehavior behavior) { return RegexSplit{nullptr, "-", behavior, false}; };
  EXPECT_EQ(cut("the-final--countdown", {split(SplitBehavior::kRemoved)}), (Strings{"the", "final", "countdown"}));
  EXPECT_EQ(cut("the-final--countdown", {split(SplitBehavior::kIsolated)}),
            (Strings{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(cut("the-final--countdown", {split(SplitBehavior::kMergedWithPrevious)}),
            (Strings{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(cut("the-final--countdown", {split(SplitBehavior::kMergedWithNext)}),
            (Strings{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(cut("the-final--countdown", {split(SplitBehavior::kContiguous)}),
            (Strings{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(cut("a b", {MetaspaceSplit{}}), (Strings{"\xE2\x96\x81" "a", "\xE2\x96\x81" "b"}));
  EXPECT_EQ(cut("abcdefg", {FixedLengthSplit{3}}), (Strings{"abc", "def", "g"}));
  EXPECT_EQ(cut("ab \xD0\xB6\xD0\xB6\xE6\x97\xA5", {ScriptSplit{}}), (Strings{"ab \xD0\xB6\xD0\xB6", "\xE6\x97\xA5"}));
}

}  // namespace
}  // namespace sluice::text
