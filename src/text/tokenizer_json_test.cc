// Small hand-written tokenizer.json files, one for each kind of part; and what is wrong with bad ones.
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/random.h"
#include "base/test_data.h"
#include "text/tokenizer.h"

namespace sluice::text {
namespace {

using Ids = std::vector<int32_t>;

// A file of these parts around a model; `rest` begins with a comma or is empty.
std::unique_ptr<Tokenizer> load(const std::string& model, const std::string& rest = "", const std::string& config = "") {
  return load_tokenizer_json("{\"model\":" + model + rest + "}", config);
}

const char* const kWordLevel =
    R"({"type":"WordLevel","unk_token":"[UNK]","vocab":{"[UNK]":0,"a":1,"b":2,"ab":3," ":4,"1":5,"12":6,".":7,"é":8,"e":9}})";
const char* const kWordPiece =
    R"({"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":10,
        "vocab":{"[UNK]":0,"[CLS]":1,"[SEP]":2,"un":3,"##aff":4,"##able":5,"hello":6,",":7,"##a":8,"日":9}})";

TEST(TokenizerJson, WordPieceWithBertPipeline) {
  auto t = load(kWordPiece, R"(,"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,
      "strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},
      "post_processor":{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]},
      "decoder":{"type":"WordPiece","prefix":"##","cleanup":true})");
  EXPECT_EQ(t->encode("Héllo, UNAFFABLE日"), (Ids{1, 6, 7, 3, 4, 5, 9, 2}));
  EXPECT_EQ(t->encode("unx unaffaffaffaff", {.add_special = false}), (Ids{0, 0}));
  EXPECT_EQ(t->decode({6, 7, 3, 4, 5}, true), "hello, unaffable");
  EXPECT_EQ(t->token_bytes(4), "aff");
  EXPECT_EQ(t->token_bytes(6), " hello");
  EXPECT_TRUE(t->strips_leading_space());
}

TEST(TokenizerJson, PreTokenizers) {
  struct {
    const char* pre_tokenizer;
    const char* text;
    Ids ids;
  } cases[] = {
      {R"({"type":"WhitespaceSplit"})", " a b\tab ", {1, 2, 3}},
      {R"({"type":"Whitespace"})", "ab.a", {3, 7, 1}},
      {R"({"type":"Punctuation","behavior":"Removed"})", "a.b", {1, 2}},
      {R"({"type":"Digits","individual_digits":true})", "a1", {1, 5}},
      {R"({"type":"Digits","individual_digits":false})", "a12", {1, 6}},
      {R"({"type":"CharDelimiterSplit","delimiter":"é"})", "aéb", {1, 2}},
      {R"({"type":"FixedLength","length":1})", "ab", {1, 2}},
      {R"({"type":"Split","pattern":{"String":"."},"behavior":"Isolated","invert":false})", "a.b", {1, 7, 2}},
      {R"({"type":"Split","pattern":{"Regex":"[ab]"},"behavior":"Removed","invert":true})", "a.b", {1, 2}},
      {R"({"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},{"type":"Digits","individual_digits":true}]})",
       "a 1b", {1, 5, 2}},
  };
  for (const auto& c : cases) {
    auto t = load(kWordLevel, std::string(",\"pre_tokenizer\":") + c.pre_tokenizer);
    EXPECT_EQ(t->encode(c.text), c.ids) << c.pre_tokenizer;
  }
}

TEST(TokenizerJson, Normalizers) {
  struct {
    const char* normalizer;
    const char* text;
    Ids ids;
  } cases[] = {
      {R"({"type":"NFC"})", "e\xCC\x81", {8}},
      {R"({"type":"Sequence","normalizers":[{"type":"NFD"},{"type":"StripAccents"}]})", "é", {9}},
      {R"({"type":"NFKC"})", "\xEF\xBC\x91", {5}},
      {R"({"type":"Lowercase"})", "AB", {3}},
      {R"({"type":"Strip","strip_left":true,"strip_right":true})", " \n ab\t", {3}},
      {R"({"type":"Replace","pattern":{"String":"x"},"content":"a"})", "xb", {3}},
      {R"({"type":"Replace","pattern":{"Regex":"x+"},"content":"a"})", "xxxb", {3}},
      {R"({"type":"Prepend","prepend":"a"})", "b", {3}},
      {R"({"type":"Nmt"})", "\x01\n", {4}},
  };
  for (const auto& c : cases) {
    auto t = load(kWordLevel, std::string(",\"normalizer\":") + c.normalizer);
    EXPECT_EQ(t->encode(c.text), c.ids) << c.normalizer;
  }
}

TEST(TokenizerJson, BpeOptions) {
  const std::string vocab = R"("vocab":{"<unk>":0,"a":1,"b":2,"ab":3,"c":4,"abc":5,"<0xC3>":6,"<0xA9>":7,"b</w>":8,"##b":9})";
  auto bpe = [&](const std::string& options) { return load("{\"type\":\"BPE\"," + options + "," + vocab + "}"); };
  EXPECT_EQ(bpe(R"("merges":["a b","ab c"])")->encode("abcab"), (Ids{5, 3}));
  EXPECT_EQ(bpe(R"("merges":[["a","b"]])")->encode("abc"), (Ids{3, 4}));
  EXPECT_EQ(bpe(R"("merges":["a b"],"ignore_merges":true)")->encode("abc"), (Ids{5}));
  EXPECT_EQ(bpe(R"("merges":[],"unk_token":"<unk>")")->encode("axx"), (Ids{1, 0, 0}));
  EXPECT_EQ(bpe(R"("merges":[],"unk_token":"<unk>","fuse_unk":true)")->encode("axxb"), (Ids{1, 0, 2}));
  EXPECT_EQ(bpe(R"("merges":[],"unk_token":"<unk>","byte_fallback":true)")->encode("éx"), (Ids{6, 7, 0}));
  EXPECT_EQ(bpe(R"("merges":[])")->encode("axb"), (Ids{1, 2}));
  EXPECT_EQ(bpe(R"("merges":[],"end_of_word_suffix":"</w>")")->encode("ab"), (Ids{1, 8}));
  EXPECT_EQ(bpe(R"("merges":["a ##b"],"continuing_subword_prefix":"##")")->encode("ab"), (Ids{3}));
}

TEST(TokenizerJson, UnigramWithBytes) {
  auto t = load(R"({"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["<unk>",0],["▁",-1],["a",-2],["▁a",-2.5],
      ["aa",-3],["<0xC3>",-9],["<0xA9>",-9]]})",
                R"(,"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true},
      "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
      {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]})");
  EXPECT_EQ(t->encode("a aaé"), (Ids{3, 1, 4, 5, 6}));
  EXPECT_EQ(t->encode("xx"), (Ids{1, 0}));
  EXPECT_EQ(t->decode({3, 1, 4, 5, 6}, true), "a aaé");
}

TEST(TokenizerJson, AddedTokens) {
  const std::string added = R"(,"pre_tokenizer":{"type":"WhitespaceSplit"},"added_tokens":[
      {"id":20,"content":"<s>","special":true,"normalized":false},
      {"id":21,"content":"<mask>","special":true,"normalized":false,"lstrip":true},
      {"id":22,"content":"<r>","special":false,"normalized":false,"rstrip":true},
      {"id":23,"content":"zz","special":false,"normalized":true,"single_word":true},
      {"id":24,"content":"<s><s>","special":true,"normalized":false}])";
  auto t = load(kWordLevel, added);
  EXPECT_EQ(t->encode("a <s>b"), (Ids{1, 20, 2}));
  EXPECT_EQ(t->encode("<s><s><s>"), (Ids{24, 20}));   // leftmost, longest
  EXPECT_EQ(t->encode("a  <mask> b"), (Ids{1, 21, 2}));
  EXPECT_EQ(t->encode("a<r>  b"), (Ids{1, 22, 2}));
  EXPECT_EQ(t->encode("a zz b"), (Ids{1, 23, 2}));
  EXPECT_EQ(t->encode("azz"), (Ids{0}));
  EXPECT_EQ(t->encode("a <s> <r>", {.parse_special = false}), (Ids{1, 0, 22}));
  EXPECT_EQ(t->vocab_size(), 25);
  EXPECT_TRUE(t->is_special(20));
  EXPECT_FALSE(t->is_special(22));
  EXPECT_EQ(t->find_token("<mask>"), 21);
  EXPECT_EQ(t->decode({1, 20, 2, 999, -5}, true), "a b");
  EXPECT_EQ(t->token_text(999), "");
  EXPECT_EQ(t->token_bytes(-1), "");
}

TEST(TokenizerJson, TemplatesAndConfig) {
  const std::string rest = R"(,"pre_tokenizer":{"type":"WhitespaceSplit"},
      "added_tokens":[{"id":20,"content":"<s>","special":true},{"id":21,"content":"</s>","special":true}],
      "post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing",
        "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],
        "special_tokens":{"<s>":{"id":"<s>","ids":[20],"tokens":["<s>"]}}}]})";
  auto t = load(kWordLevel, rest);
  EXPECT_EQ(t->encode("a"), (Ids{20, 1}));
  EXPECT_TRUE(t->adds_bos());
  EXPECT_EQ(t->special_ids().eos, 21);
  auto llama = load(kWordLevel, rest, R"({"tokenizer_class":"LlamaTokenizerFast","add_bos_token":false,
      "add_eos_token":true,"bos_token":"<s>","eos_token":{"content":"</s>"}})");
  EXPECT_EQ(llama->encode("a"), (Ids{1, 21}));
  EXPECT_FALSE(llama->adds_bos());
  auto other = load(kWordLevel, rest, R"({"tokenizer_class":"PreTrainedTokenizerFast","add_bos_token":false,
      "bos_token":"<s>","added_tokens_decoder":{"30":{"content":"<x>","special":true}}})");
  EXPECT_EQ(other->encode("a<x>"), (Ids{20, 1, 30}));
}

TEST(TokenizerJson, Decoders) {
  auto text = [&](const char* decoder, const Ids& ids) {
    return load(kWordLevel, std::string(",\"decoder\":") + decoder)->decode(ids, true);
  };
  EXPECT_EQ(load(kWordLevel)->decode({1, 2}, true), "a b");
  EXPECT_EQ(text(R"({"type":"Fuse"})", {1, 2}), "ab");
  EXPECT_EQ(text(R"({"type":"BPEDecoder","suffix":"b"})", {1, 3, 3}), "aa a");
  EXPECT_EQ(text(R"({"type":"CTC","pad_token":"e","word_delimiter_token":".","cleanup":true})", {1, 1, 9, 1, 7, 2}), "aa b");
  EXPECT_EQ(text(R"({"type":"WordPiece","prefix":"##","cleanup":true})", {1, 7}), "a.");
}

TEST(TokenizerJson, BadFilesAreErrorsThatNameThePart) {
  struct {
    std::string file;
    const char* named;
  } cases[] = {
      {"", "tokenizer.json"},
      {"[]", "object"},
      {"{}", "model"},
      {R"({"model":{"type":"Magic","vocab":{}}})", "Magic"},
      {R"({"model":{"type":"BPE","vocab":{"a":0}}})", "merges"},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}})", "'b'"},
      {R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["ab"]}})", "merges"},
      {R"({"model":{"type":"BPE","vocab":{"a":"x"},"merges":[]}})", "vocab"},
      {R"({"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}})", "-1"},
      {R"({"model":{"type":"BPE","vocab":{"a":4000000000},"merges":[]}})", "4000000000"},
      {R"({"model":{"type":"BPE","vocab":{"a":9000000},"merges":[]}})", "9000000"},
      {R"({"model":{"type":"Unigram","vocab":[["a"]]}})", "vocab"},
      {R"({"model":{"type":"Unigram","unk_id":7,"vocab":[["a",0]]}})", "unk_id"},
      {R"({"model":{"type":"WordLevel","vocab":{"a":0}},"normalizer":{"type":"Odd"}})", "Odd"},
      {R"({"model":{"type":"WordLevel","vocab":{"a":0}},"pre_tokenizer":{"type":"Split"}})", "pattern"},
      {R"({"model":{"type":"WordLevel","vocab":{"a":0}},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("}}})", "regular"},
      {R"({"model":{"type":"WordLevel","vocab":{"a":0}},"decoder":7})", "decoder"},
      {R"({"model":{"type":"WordLevel","vocab":{"a":0}},"added_tokens":[{"content":"x"}]})", "added_tokens"},
      {R"({"model":{"type":"WordLevel","vocab":{"a":0}},"added_tokens":[{"id":99999999999,"content":"x"}]})", "id"},
      {R"({"model":{"type":"WordLevel","vocab":{"a":0}},"post_processor":{"type":"BertProcessing","sep":1,"cls":2}})", "cls"},
      {R"({"model":{"type":"WordLevel","vocab":{"a":0}},"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"}})",
       "charsmap"},
  };
  for (const auto& c : cases) {
    try {
      load_tokenizer_json(c.file, "");
      ADD_FAILURE() << "no error for " << c.file;
    } catch (const Error& error) {
      EXPECT_NE(error.message().find(c.named), std::string::npos) << error.message();
    }
  }
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += R"({"type":"Sequence","normalizers":[)";
  EXPECT_THROW(load(kWordLevel, ",\"normalizer\":" + deep), Error);
}

// Damaged files load or give an Error, and nothing else.
TEST(TokenizerJson, MutationsNeverCrash) {
  std::string good = std::string("{\"model\":") + kWordPiece + R"(,"normalizer":{"type":"BertNormalizer"},
      "pre_tokenizer":{"type":"Split","pattern":{"Regex":"[a-z]+"},"behavior":"Isolated"},"decoder":{"type":"WordPiece"},
      "added_tokens":[{"id":20,"content":"<s>","special":true}]})";
  Random random(11);
  for (int round = 0; round < 1500; ++round) {
    std::string bad = good;
    for (uint64_t i = 0, n = 1 + random.below(3); i < n; ++i) {
      size_t at = random.below(bad.size());
      switch (random.below(3)) {
        case 0: bad[at] = static_cast<char>(32 + random.below(95)); break;
        case 1: bad.erase(at, 1 + random.below(8)); break;
        default: bad.insert(at, bad.substr(random.below(bad.size()), random.below(12)));
      }
      if (bad.empty()) bad = "x";
    }
    try {
      auto t = load_tokenizer_json(bad, "");
      t->decode(t->encode("hello <s> unaffable, \xFF"), false);
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace sluice::text
