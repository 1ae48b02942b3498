// Finding the vocabulary in a folder.
#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/mmap.h"
#include "text/tokenizer.h"

namespace sluice::text {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFileBytes = 256u << 20;

std::string read_if_there(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored) ? read_file(path.string(), kMaxFileBytes) : "";
}

// The files of `folder` that fit, in order of name.
template <typename Fits>
std::vector<fs::path> find_files(const fs::path& folder, Fits&& fits) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (fits(it->path().filename().string())) found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool is_sentencepiece_name(const std::string& name) {
  return name == "tokenizer.model" || name == "spiece.model" || name == "sentencepiece.bpe.model" ||
         name == "spm.model" || name.starts_with("tokenizer.model.v");
}

// tokenizer.model is SentencePiece's, or tiktoken ranks under the same name (Llama 3's own release).
bool looks_like_ranks(std::string_view bytes) {
  std::string_view line = bytes.substr(0, bytes.find('\n'));
  size_t space = line.find(' ');
  auto is_digit = [](char c) { return (c >= '0' && c <= '9') || c == '\r'; };
  return space != std::string_view::npos && space > 0 && space + 1 < line.size() &&
         std::all_of(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(space), [](char c) { return c > ' ' && c < 127; }) &&
         std::all_of(line.begin() + static_cast<std::ptrdiff_t>(space) + 1, line.end(), is_digit);
}

std::unique_ptr<Tokenizer> load_vocab_pair(const fs::path& vocab, const std::string& config, std::string_view pre) {
  fs::path folder = vocab.parent_path();
  for (const char* name : {"merges.txt", "vocab.bpe"}) {
    std::string merges = read_if_there(folder / name);
    if (!merges.empty()) return load_vocab_merges(read_file(vocab.string(), kMaxFileBytes), merges, pre, config);
  }
  fail(Code::kNotFound, "{}: there is no merges.txt or vocab.bpe beside it", vocab.string());
}

std::unique_ptr<Tokenizer> load_file(const fs::path& path, std::string_view pre) {
  std::string name = path.filename().string();
  std::string config = read_if_there(path.parent_path() / "tokenizer_config.json");
  if (name == "vocab.json" || name == "encoder.json") return load_vocab_pair(path, config, pre);
  std::string bytes = read_file(path.string(), kMaxFileBytes);
  if (name == "tekken.json") return load_tekken(bytes);
  if (name.ends_with(".json")) return load_tokenizer_json(bytes, config);
  if (name == "merges.txt" || name == "vocab.bpe") {
    for (const char* vocab : {"vocab.json", "encoder.json"}) {
      if (fs::exists(path.parent_path() / vocab)) return load_vocab_pair(path.parent_path() / vocab, config, pre);
    }
    fail(Code::kNotFound, "{}: there is no vocab.json or encoder.json beside it", path.string());
  }
  if (name.ends_with(".tiktoken") || looks_like_ranks(bytes)) return load_tiktoken(bytes, pre, config);
  return load_sentencepiece(bytes, config);
}

std::unique_ptr<Tokenizer> load_folder(const fs::path& folder, std::string_view pre) {
  std::error_code ignored;
  if (fs::is_regular_file(folder / "tokenizer.json", ignored)) return load_file(folder / "tokenizer.json", pre);
  if (fs::is_regular_file(folder / "tekken.json", ignored)) return load_file(folder / "tekken.json", pre);
  auto models = find_files(folder, is_sentencepiece_name);
  if (!models.empty()) return load_file(models.front(), pre);
  auto ranks = find_files(folder, [](const std::string& name) { return name.ends_with(".tiktoken"); });
  if (!ranks.empty()) return load_file(ranks.front(), pre);
  for (const char* vocab : {"vocab.json", "encoder.json"}) {
    if (fs::is_regular_file(folder / vocab, ignored)) return load_file(folder / vocab, pre);
  }
  fail(Code::kNotFound,
       "{}: no tokenizer here; looked for tokenizer.json, tekken.json, tokenizer.model, *.tiktoken, vocab.json or encoder.json with "
       "merges.txt or vocab.bpe",
       folder.string());
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path, std::string_view pre) {
  std::error_code error;
  bool is_folder = fs::is_directory(path, error);
  try {
    return is_folder ? load_folder(path, pre) : load_file(path, pre);
  } catch (const Error& failure) {
    if (failure.message().find(path) != std::string::npos) throw;
    throw Error(failure.code(), path + ": " + failure.message(), failure.param());
  }
}

}  // namespace sluice::text
