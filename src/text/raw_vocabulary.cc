// Byte-level BPE without a pipeline file: tiktoken ranks, or vocab.json with merges.txt. What these files do not say is
// the pattern that cuts the text: it is named by the caller or guessed from the vocabulary.
#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/json.h"
#include "text/byte_map.h"
#include "text/loaders.h"
#include "text/pre_patterns.h"

namespace sluice::text {
namespace {

// Families differ in how they cut numbers and case, and it shows in what they have tokens for.
std::string_view guess_pre_pattern(const Vocabulary& vocabulary) {
  auto has = [&](std::string_view text) { return vocabulary.find(text).has_value(); };
  int num_triples = 0, num_pairs = 0;
  for (int i = 0; i < 1000; ++i) {
    num_triples += has(fmt::format("{:03}", i));
    if (i < 100) num_pairs += has(fmt::format("{:02}", i));
  }
  bool all_triples = num_triples == 1000;
  int64_t size = vocabulary.size();
  if (num_pairs == 0) {
    // One digit a token: Qwen, StarCoder (small, code), Tekken.
    if (size > 125'000 && size < 140'000) return "tekken";
    return size > 60'000 ? "qwen2" : "starcoder";
  }
  if (all_triples && !has("0000") && size > 160'000 && size < 166'000) return "kimi-k2";
  if (all_triples && !has("0000")) return size > 180'000 ? "gpt-4o" : "llama-bpe";
  return "gpt-2";
}

// Cuts a text file into lines; "\r\n" too.
template <typename Visit>
void for_each_line(std::string_view text, Visit&& visit) {
  size_t number = 0;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    visit(line, ++number);
  }
}

// The rest that both loaders share. `parts` has the vocabulary and the model.
std::unique_ptr<Tokenizer> finish(PipelineParts parts, const PrePattern& pre, const TokenizerConfig& config) {
  for (const std::string& pattern : pre.patterns) {
    parts.pre_tokenizer.add(RegexSplit{get_shared_regex(pattern), "", SplitBehavior::kIsolated, false});
  }
  parts.pre_tokenizer.add(ByteLevelSplit{config.add_prefix_space.value_or(false), nullptr});
  parts.decoder.add(ByteLevelDecode{});
  merge_added_tokens(config, parts.added_tokens);
  // GPT-2's own end token is an ordinary entry of its vocab.json.
  if (parts.added_tokens.empty()) {
    if (auto id = parts.vocabulary->find("<|endoftext|>")) {
      AddedToken token;
      token.id = *id;
      token.content = "<|endoftext|>";
      token.special = true;
      parts.added_tokens.push_back(token);
      parts.special.bos = parts.special.eos = *id;
    }
  }
  resolve_special_ids(
      config,
      [&](const std::string& text) -> std::optional<int32_t> {
        for (const AddedToken& token : parts.added_tokens) {
          if (token.content == text) return token.id;
        }
        return parts.vocabulary->find(text);
      },
      parts.special);
  if (config.add_bos_token.value_or(pre.adds_bos()) && parts.special.bos >= 0) parts.prefix_ids.push_back(parts.special.bos);
  if (config.add_eos_token.value_or(false) && parts.special.eos >= 0) parts.suffix_ids.push_back(parts.special.eos);
  parts.description = fmt::format("byte-level BPE, {} tokens, {} pattern", parts.vocabulary->size(), pre.names[0]);
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

const PrePattern& choose_pattern(std::string_view pre, const Vocabulary& vocabulary) {
  const PrePattern& chosen = get_pre_pattern(pre.empty() ? guess_pre_pattern(vocabulary) : pre);
  if (!chosen.maps_bytes()) {
    fail(Code::kInvalidArgument, "pre-tokenizer '{}' is not one of byte-level BPE", chosen.names[0]);
  }
  return chosen;
}

int decode_base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

}  // namespace

std::unique_ptr<Tokenizer> load_tiktoken(std::string_view ranks, std::string_view pre, std::string_view tokenizer_config) {
  TokenizerConfig config = parse_tokenizer_config(tokenizer_config);
  auto vocabulary = std::make_shared<Vocabulary>();
  int64_t num_lines = 0;
  for_each_line(ranks, [&](std::string_view line, size_t number) {
    if (line.empty()) return;
    auto bad = [&](const char* what) {
      fail(Code::kInvalidArgument, "tiktoken ranks, line {}: {}; expected \"base64 rank\"", number, what);
    };
    size_t space = line.find(' ');
    if (space == std::string_view::npos || space == 0) bad("no rank");
    std::string bytes;
    uint32_t bits = 0;
    int num_bits = 0;
    for (char c : line.substr(0, space)) {
      if (c == '=') continue;
      int digit = decode_base64_digit(c);
      if (digit < 0) bad("not base64");
      bits = ((bits << 6) | static_cast<uint32_t>(digit)) & 0xFFFFFF;
      num_bits += 6;
      if (num_bits >= 8) {
        num_bits -= 8;
        bytes.push_back(static_cast<char>((bits >> num_bits) & 0xFF));
      }
    }
    int64_t rank = -1;
    auto [end, error] = std::from_chars(line.data() + space + 1, line.data() + line.size(), rank);
    if (error != std::errc() || end != line.data() + line.size()) bad("the rank is not a number");
    if (bytes.empty()) bad("the token is empty");
    std::string mapped;
    append_mapped_bytes(mapped, bytes);
    vocabulary->add(mapped, rank, "tiktoken ranks");
    ++num_lines;
  });
  if (num_lines == 0) fail(Code::kInvalidArgument, "tiktoken ranks: the file has no tokens");
  if (vocabulary->size() > 4 * num_lines + 100'000) {
    fail(Code::kInvalidArgument, "tiktoken ranks: {} tokens have ranks up to {}", num_lines, vocabulary->size() - 1);
  }
  std::vector<uint32_t> merge_ranks(static_cast<size_t>(vocabulary->size()), Bpe::kNoRank);
  for (size_t id = 0; id < merge_ranks.size(); ++id) {
    if (vocabulary->contains(static_cast<int64_t>(id))) merge_ranks[id] = static_cast<uint32_t>(id);
  }
  const PrePattern& pattern = choose_pattern(pre, *vocabulary);
  PipelineParts parts;
  Bpe::Options options;
  options.ignore_merges = true;
  parts.model = std::make_shared<TokenModel>(Bpe(vocabulary, merge_ranks, {}, options));
  parts.vocabulary = std::move(vocabulary);
  return finish(std::move(parts), pattern, config);
}

std::unique_ptr<Tokenizer> load_vocab_merges(std::string_view vocab_json, std::string_view merges, std::string_view pre,
                                             std::string_view tokenizer_config) {
  TokenizerConfig config = parse_tokenizer_config(tokenizer_config);
  json::value root;
  try {
    root = json::parse(vocab_json);
  } catch (const Error& error) {
    fail(Code::kInvalidArgument, "vocab.json: {}", error.message());
  }
  if (!root.is_object()) fail(Code::kInvalidArgument, "vocab.json: must be an object of token ids");
  auto vocabulary = std::make_shared<Vocabulary>();
  for (const auto& entry : root.get_object()) {
    std::string_view key(entry.key().data(), entry.key().size());
    if (!entry.value().is_int64()) fail(Code::kInvalidArgument, "vocab.json: '{}' has no integer id", key);
    vocabulary->add(key, entry.value().get_int64(), "vocab.json");
  }
  if (vocabulary->size() == 0 || vocabulary->size() > 4 * static_cast<int64_t>(root.get_object().size()) + 100'000) {
    fail(Code::kInvalidArgument, "vocab.json: {} tokens have ids up to {}", root.get_object().size(), vocabulary->size() - 1);
  }
  std::vector<std::string> lines;
  for_each_line(merges, [&](std::string_view line, size_t number) {
    if (line.empty() || (number == 1 && line.starts_with("#version"))) return;
    lines.emplace_back(line);
  });
  const PrePattern& pattern = choose_pattern(pre, *vocabulary);
  PipelineParts parts;
  Bpe::Options options;
  options.ignore_merges = pattern.ignores_merges();
  options.skip_unknown_merges = true;
  std::vector<Bpe::MergeText> split = split_merges(lines, *vocabulary, "merges.txt");
  parts.model = std::make_shared<TokenModel>(Bpe(vocabulary, split, options));
  parts.vocabulary = std::move(vocabulary);
  return finish(std::move(parts), pattern, config);
}

}  // namespace sluice::text
