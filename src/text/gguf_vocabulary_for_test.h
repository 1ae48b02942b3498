// For tests only: the tokenizer.ggml.* metadata of a vocabulary-only GGUF file, without the folder that reads GGUF.
// Trusts the file.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "base/mmap.h"
#include "text/tokenizer.h"

namespace sluice::text {

class GgufVocabularyReader {
 public:
  explicit GgufVocabularyReader(const std::string& path) : bytes_(read_file(path)) {}

  VocabularySource read() {
    at_ = 8;  // magic, version
    read_number<uint64_t>();
    uint64_t num_entries = read_number<uint64_t>();
    for (uint64_t i = 0; i < num_entries; ++i) {
      std::string key = read_string();
      read_value(key, read_number<uint32_t>());
    }
    return std::move(source_);
  }

 private:
  template <typename T>
  T read_number() {
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string read_string() {
    size_t size = read_number<uint64_t>();
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }

  void read_value(const std::string& key, uint32_t type) {
    static constexpr size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) {
      std::string value = read_string();
      if (key == "tokenizer.ggml.model") source_.model = value;
      if (key == "tokenizer.ggml.pre") source_.pre = value;
    } else if (type == 9) {
      uint32_t element = read_number<uint32_t>();
      uint64_t count = read_number<uint64_t>();
      for (uint64_t i = 0; i < count; ++i) {
        if (element == 8) {
          std::string value = read_string();
          if (key == "tokenizer.ggml.tokens") source_.tokens.push_back(std::move(value));
          if (key == "tokenizer.ggml.merges") source_.merges.push_back(std::move(value));
        } else if (key == "tokenizer.ggml.scores") {
          source_.scores.push_back(read_number<float>());
        } else if (key == "tokenizer.ggml.token_type") {
          source_.types.push_back(read_number<int32_t>());
        } else {
          at_ += kSizes[element];
        }
      }
    } else if (type == 7) {
      bool value = read_number<uint8_t>() != 0;
      if (key == "tokenizer.ggml.add_bos_token") source_.add_bos = value;
      if (key == "tokenizer.ggml.add_eos_token") source_.add_eos = value;
    } else if (type == 4) {
      int32_t value = read_number<int32_t>();
      if (key == "tokenizer.ggml.bos_token_id") source_.special.bos = value;
      if (key == "tokenizer.ggml.eos_token_id") source_.special.eos = value;
      if (key == "tokenizer.ggml.unknown_token_id") source_.special.unknown = value;
      if (key == "tokenizer.ggml.padding_token_id") source_.special.pad = value;
      if (key == "tokenizer.ggml.seperator_token_id") source_.special.sep = value;
      if (key == "tokenizer.ggml.cls_token_id") source_.special.cls = value;
      if (key == "tokenizer.ggml.mask_token_id") source_.special.mask = value;
    } else {
      at_ += kSizes[type];
    }
  }

  std::string bytes_;
  size_t at_ = 0;
  VocabularySource source_;
};

}  // namespace sluice::text
