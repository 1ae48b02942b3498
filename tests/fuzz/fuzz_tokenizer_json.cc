#include "base/error.h"
#include "fuzz/fuzz.h"
#include "text/tokenizer.h"

namespace sluice::fuzz {

// Whole tokenizer.json files, one of each model kind, lie in seeds/tokenizer_json.
std::vector<std::string> make_seeds() { return {}; }

std::vector<std::string> make_dictionary() {
  return split_words(R"words(
      "type":"BPE" "type":"Unigram" "type":"WordPiece" "type":"WordLevel" "type":"Sequence"
      "type":"Split" "type":"ByteLevel" "type":"Metaspace" "type":"Replace" "type":"Prepend"
      "type":"Precompiled" "type":"TemplateProcessing" "type":"NFKC" "type":"Digits"
      "type":"Punctuation" "type":"Strip" "type":"Fuse" "type":"ByteFallback"
      "behavior":"MergedWithNext" "Regex": "String": "vocab": "merges": "added_tokens":[ "unk_id":
      "byte_fallback":true "ignore_merges":true null [] {} -1 2147483648 4294967296 (?:(a+)+)+b
      [[[[ \\u0000 "": "id":0, "id":2000000000,)words");
}

std::string mutate_structure(const std::string& input, uint64_t) { return input; }

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  try {
    auto tokenizer =
        text::load_tokenizer_json(std::string_view(reinterpret_cast<const char*>(data), size), "");
    for (const char* text :
         {"", "Hello, world! 12345", "  a\n\n\tb\xff\xc3\xa9 \xf0\x9f\x98\x80<s></s>[CLS]aaaaaaaaaaaaaaaa"}) {
      std::vector<int32_t> ids = tokenizer->encode(text);
      tokenizer->decode(ids, false);
      tokenizer->decode(ids, true);
      for (int32_t id : ids) {
        tokenizer->token_bytes(id);
        tokenizer->token_text(id);
      }
    }
    tokenizer->decode({-1, 0, INT32_MAX, INT32_MIN}, false);
    return 0;
  } catch (const Error&) {
    return -1;
  }
}
