// sluice tokenize: text on standard input to token ids on standard output.
#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flags.h"

namespace sluice::cli {
namespace {

// "[1, 403, 407]" or "1 403 407".
std::vector<int32_t> parse_ids(const std::string& text, int64_t vocab_size) {
  std::vector<int32_t> ids;
  for (size_t at = 0; (at = text.find_first_not_of(" \t\r\n,[]", at)) != std::string::npos;) {
    size_t end = std::min(text.find_first_of(" \t\r\n,[]", at), text.size());
    std::string word = text.substr(at, end - at);
    int64_t id = -1;
    auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || stop != word.data() + word.size() || id < 0 || id >= vocab_size) {
      fail(Code::kInvalidArgument, "'{}' is not a token id; the vocabulary has ids 0 to {}", word, vocab_size - 1);
    }
    ids.push_back(static_cast<int32_t>(id));
    at = end;
  }
  return ids;
}

}  // namespace

void add_tokenize(CLI::App& parent) {
  struct Flags {
    std::string path, pre;
    bool no_special = false, no_parse_special = false, json = false, decode = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("tokenize", "Print the token ids of the text on standard input");
  command->add_option("model", flags->path, "GGUF file, Hugging Face folder, or tokenizer file")->required();
  command->add_flag("--no-special", flags->no_special, "do not add beginning and end tokens");
  command->add_flag("--no-parse-special", flags->no_parse_special,
                    "read special tokens written in the text, such as <s>, as plain text");
  command->add_flag("--decode", flags->decode, "the other way: token ids in, text out");
  command->add_option("--pre", flags->pre, "pre-tokeniser of a tiktoken or vocab+merges file, such as llama-bpe");
  command->add_flag("--json", flags->json, "as {\"ids\", \"tokens\", \"count\"}");
  command->callback([flags] {
    auto tokenizer = engine::load_tokenizer(flags->path, flags->pre);
    std::string input = read_stream_or_file("-");
    if (flags->decode) {
      std::vector<int32_t> ids = parse_ids(input, tokenizer->vocab_size());
      std::string text = tokenizer->decode(ids, false);
      std::fwrite(text.data(), 1, text.size(), stdout);
      return;
    }
    std::vector<int32_t> ids = tokenizer->encode(
        input, {.add_special = !flags->no_special, .parse_special = !flags->no_parse_special});
    if (flags->json) {
      json::array numbers(ids.begin(), ids.end()), tokens;
      for (int32_t id : ids) tokens.emplace_back(tokenizer->token_text(id));
      std::printf("%s\n", json::serialize(json::object{{"count", ids.size()}, {"ids", numbers}, {"tokens", tokens}}).c_str());
    } else {
      for (size_t i = 0; i < ids.size(); ++i) std::printf(i == 0 ? "%d" : " %d", ids[i]);
      std::printf("\n");
    }
  });
}

}  // namespace sluice::cli
