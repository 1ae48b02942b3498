// SentencePiece's tokenizer.model: a small protobuf, read by hand. Field numbers are those of sentencepiece_model.proto.
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "text/loaders.h"
#include "text/tokenizer.h"

namespace sluice::text {
namespace {

constexpr const char* kWhere = "tokenizer.model";

// Walks the fields of one protobuf message. Every length is checked against what is left.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view bytes) : bytes_(bytes) {}

  // Moves to the next field; false at the end.
  bool next() {
    if (at_ == bytes_.size()) return false;
    uint64_t tag = read_varint();
    field_ = tag >> 3;
    wire_ = static_cast<int>(tag & 7);
    switch (wire_) {
      case 0: number_ = read_varint(); break;
      case 1: payload_ = read_bytes(8); break;
      case 2: payload_ = read_bytes(read_varint()); break;
      case 5: payload_ = read_bytes(4); break;
      default: fail(Code::kInvalidArgument, "{}: not a SentencePiece model (wire type {} at byte {})", kWhere, wire_, at_);
    }
    return true;
  }

  uint64_t field() const { return field_; }
  int64_t integer() const { return wire_ == 0 ? static_cast<int64_t>(number_) : 0; }
  bool boolean() const { return wire_ == 0 && number_ != 0; }
  std::string_view bytes() const { return wire_ == 2 ? payload_ : std::string_view(); }
  float real() const {
    float value = 0;
    if (wire_ == 5) std::memcpy(&value, payload_.data(), 4);
    return value;
  }

 private:
  uint64_t read_varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ >= bytes_.size()) break;
      uint8_t byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail(Code::kInvalidArgument, "{}: damaged number at byte {}", kWhere, at_);
  }
  std::string_view read_bytes(uint64_t count) {
    if (count > bytes_.size() - at_) {
      fail(Code::kInvalidArgument, "{}: a field of {} bytes at byte {} goes beyond the end; the file is cut short or not "
           "a SentencePiece model", kWhere, count, at_);
    }
    std::string_view out = bytes_.substr(at_, static_cast<size_t>(count));
    at_ += static_cast<size_t>(count);
    return out;
  }

  std::string_view bytes_, payload_;
  size_t at_ = 0;
  uint64_t field_ = 0, number_ = 0;
  int wire_ = 0;
};

enum PieceType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Model {
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<int> types;
  int64_t model_type = 1;  // 1 Unigram, 2 BPE, 3 word, 4 character
  int64_t unk_id = 0, bos_id = 1, eos_id = 2, pad_id = -1;
  bool byte_fallback = false, treat_whitespace_as_suffix = false;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  std::string charsmap;
};

void read_piece(std::string_view bytes, Model& model) {
  std::string piece;
  float score = 0;
  int64_t type = kNormal;
  for (ProtoReader reader(bytes); reader.next();) {
    if (reader.field() == 1) piece = std::string(reader.bytes());
    if (reader.field() == 2) score = reader.real();
    if (reader.field() == 3) type = reader.integer();
  }
  if (type < kNormal || type > kByte || std::isnan(score)) {
    fail(Code::kInvalidArgument, "{}: piece {} has type {} and score {}", kWhere, model.pieces.size(), type, score);
  }
  model.pieces.push_back(std::move(piece));
  model.scores.push_back(score);
  model.types.push_back(static_cast<int>(type));
}

Model read_model(std::string_view bytes) {
  Model model;
  for (ProtoReader reader(bytes); reader.next();) {
    if (reader.field() == 1) {
      read_piece(reader.bytes(), model);
    } else if (reader.field() == 2) {
      for (ProtoReader trainer(reader.bytes()); trainer.next();) {
        switch (trainer.field()) {
          case 3: model.model_type = trainer.integer(); break;
          case 24: model.treat_whitespace_as_suffix = trainer.boolean(); break;
          case 35: model.byte_fallback = trainer.boolean(); break;
          case 40: model.unk_id = trainer.integer(); break;
          case 41: model.bos_id = trainer.integer(); break;
          case 42: model.eos_id = trainer.integer(); break;
          case 43: model.pad_id = trainer.integer(); break;
          default: break;
        }
      }
    } else if (reader.field() == 3) {
      for (ProtoReader spec(reader.bytes()); spec.next();) {
        switch (spec.field()) {
          case 2: model.charsmap = std::string(spec.bytes()); break;
          case 3: model.add_dummy_prefix = spec.boolean(); break;
          case 4: model.remove_extra_whitespaces = spec.boolean(); break;
          case 5: model.escape_whitespaces = spec.boolean(); break;
          default: break;
        }
      }
    }
  }
  if (model.pieces.empty()) fail(Code::kInvalidArgument, "{}: no pieces; this is not a SentencePiece model", kWhere);
  if (model.model_type != 1 && model.model_type != 2) {
    fail(Code::kUnimplemented, "{}: model type {} (1 Unigram and 2 BPE are supported)", kWhere, model.model_type);
  }
  return model;
}

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view bytes, std::string_view tokenizer_config) {
  Model model = read_model(bytes);
  TokenizerConfig config = parse_tokenizer_config(tokenizer_config);
  size_t count = model.pieces.size();
  auto vocabulary = std::make_shared<Vocabulary>();
  std::vector<bool> matchable(count), unused(count);
  bool any_unused = false;
  std::vector<std::pair<std::string_view, int32_t>> user_defined;
  PipelineParts parts;
  for (size_t id = 0; id < count; ++id) {
    const std::string& piece = model.pieces[id];
    int type = model.types[id];
    vocabulary->add(piece, static_cast<int64_t>(id), kWhere);
    matchable[id] = type == kNormal || type == kUserDefined || type == kUnused;
    unused[id] = type == kUnused;
    any_unused |= unused[id];
    if (type == kControl || type == kUnknown || type == kUserDefined) {
      AddedToken token;
      token.id = static_cast<int32_t>(id);
      token.special = type != kUserDefined;
      token.content = piece;
      // Pieces are written as the normaliser leaves text, and are looked for there.
      token.normalized = token.verbatim = !token.special;
      if (token.normalized) user_defined.emplace_back(piece, token.id);
      if (!piece.empty()) parts.added_tokens.push_back(std::move(token));
    }
  }
  auto in_range = [&](int64_t id) { return id >= 0 && id < static_cast<int64_t>(count) ? static_cast<int32_t>(id) : -1; };
  parts.special.bos = in_range(model.bos_id);
  parts.special.eos = in_range(model.eos_id);
  parts.special.unknown = in_range(model.unk_id);
  parts.special.pad = in_range(model.pad_id);
  int32_t unknown_id = parts.special.unknown;

  bool unigram = model.model_type == 1;
  if (unigram) {
    std::vector<double> scores(model.scores.begin(), model.scores.end());
    for (size_t id = 0; id < count; ++id) {
      if (unused[id]) matchable[id] = false;
    }
    parts.model = std::make_shared<TokenModel>(
        Unigram(vocabulary, std::move(scores), matchable, unknown_id, model.byte_fallback));
  } else {
    Bpe::Options options;
    options.unknown_id = unknown_id;
    options.fuse_unknown = true;
    options.byte_fallback = model.byte_fallback;
    parts.model = std::make_shared<TokenModel>(Bpe(vocabulary, rank_by_score(model.scores, matchable),
                                                   any_unused ? std::move(unused) : std::vector<bool>(), options));
  }
  SentencePieceStep step;
  if (!model.charsmap.empty()) step.map = std::make_shared<Charsmap>(model.charsmap, kWhere);
  if (!user_defined.empty()) step.unmapped = std::make_shared<Trie>(std::move(user_defined));
  step.add_dummy_prefix = model.add_dummy_prefix && config.add_prefix_space.value_or(true);
  step.prefix_only_at_start = !config.legacy.value_or(true);
  step.remove_extra_whitespaces = model.remove_extra_whitespaces;
  step.escape_whitespaces = model.escape_whitespaces;
  step.treat_whitespace_as_suffix = model.treat_whitespace_as_suffix;
  parts.normalizer.add(NormalizerStep(step));
  add_sentencepiece_decoder(step.add_dummy_prefix && !step.treat_whitespace_as_suffix, parts.decoder);

  merge_added_tokens(config, parts.added_tokens);
  resolve_special_ids(
      config,
      [&](const std::string& text) -> std::optional<int32_t> {
        for (const AddedToken& token : parts.added_tokens) {
          if (token.content == text) return token.id;
        }
        return vocabulary->find(text);
      },
      parts.special);
  parts.vocabulary = std::move(vocabulary);
  // Models that know a beginning token begin with it (Llama); those that do not (T5) end with the end token.
  bool add_bos = config.add_bos_token.value_or(parts.special.bos >= 0);
  bool add_eos = config.add_eos_token.value_or(parts.special.bos < 0);
  if (add_bos && parts.special.bos >= 0) parts.prefix_ids.push_back(parts.special.bos);
  if (add_eos && parts.special.eos >= 0) parts.suffix_ids.push_back(parts.special.eos);
  parts.description = fmt::format("SentencePiece {}, {} tokens", unigram ? "Unigram" : "BPE", count);
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace sluice::text
