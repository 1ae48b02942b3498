#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/float16.h"
#include "base/random.h"
#include "base/test_data.h"
#include "formats/gguf_builder_for_test.h"
#include "formats/mapped_weights.h"
#include "formats/weight_file.h"

namespace sluice::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const uint8_t> as_bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// A folder of this test's own, emptied.
std::string make_folder() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) /
                                 (std::string("sluice-") + info->test_suite_name() + "-" + info->name());
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder.string();
}

// The message of the Error that `action` throws.
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.message().find('\n'), std::string::npos) << error.message();
    return error.message();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

std::string parse_message(const std::string& bytes) {
  return message_of([&] { parse_gguf("bad.gguf", as_bytes(bytes)); });
}

std::string bytes_of(const TensorView& view) {
  return std::string(reinterpret_cast<const char*>(view.data), static_cast<size_t>(view.num_bytes()));
}

GgufBuilder small_model() {
  GgufBuilder builder;
  builder.text("general.architecture", "llama")
      .u32("llama.block_count", 2)
      .f32("llama.rope.freq_base", 10000.0f);
  builder.texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "hello"})
      .f32s("tokenizer.ggml.scores", {0.0f, 0.0f, -1.5f});
  builder.tensor("token_embd.weight", {3, 64}, DType::kQ8_0).tensor("output_norm.weight", {64}, DType::kF32);
  builder.tensor("cube", {2, 3, 5}, DType::kF16);
  return builder;
}

TEST(Gguf, ReadsEveryMetadataType) {
  GgufBuilder builder;
  builder.u8("u8", 255)
      .i8("i8", -128)
      .u16("u16", 65535)
      .i16("i16", -32768)
      .u32("u32", 4294967295u)
      .i32("i32", INT32_MIN);
  builder.u64("u64", UINT64_MAX)
      .i64("i64", INT64_MIN)
      .f32("f32", 0.5f)
      .f64("f64", 1e300)
      .flag("yes", true)
      .flag("no", false);
  builder.text("text", std::string("a\xff\0z", 4)).text("empty", "");
  builder.texts("texts", {"", "b", "c"}).i32s("i32s", {-1, 2}).f32s("f32s", {1.5f, -2.0f});
  builder.numbers<uint8_t>("u8s", GgufValue::kU8, {0, 255}).numbers<int8_t>("i8s", GgufValue::kI8, {-1});
  builder.numbers<uint16_t>("u16s", GgufValue::kU16, {65535}).numbers<int16_t>("i16s", GgufValue::kI16, {-2});
  builder.numbers<uint32_t>("u32s", GgufValue::kU32, {4294967295u})
      .numbers<uint64_t>("u64s", GgufValue::kU64, {7});
  builder.numbers<int64_t>("i64s", GgufValue::kI64, {INT64_MIN})
      .numbers<double>("f64s", GgufValue::kF64, {1e-300});
  builder.numbers<uint8_t>("bools", GgufValue::kBool, {1, 0, 1}).i32s("none", {});
  for (uint32_t version : {2u, 3u}) {
    builder.version = version;
    std::string bytes = builder.build();
    auto file = parse_gguf("all.gguf", as_bytes(bytes));
    EXPECT_EQ(file->description(), version == 2 ? "GGUF v2" : "GGUF v3");
    const Metadata& metadata = file->metadata();
    EXPECT_EQ(metadata.find_int("u8"), 255);
    EXPECT_EQ(metadata.find_int("i8"), -128);
    EXPECT_EQ(metadata.find_int("u16"), 65535);
    EXPECT_EQ(metadata.find_int("i16"), -32768);
    EXPECT_EQ(metadata.find_int("u32"), 4294967295);
    EXPECT_EQ(metadata.find_int("i32"), INT32_MIN);
    EXPECT_EQ(metadata.find_int("i64"), INT64_MIN);
    EXPECT_EQ(std::get<uint64_t>(metadata.values.at("u64")), UINT64_MAX);
    EXPECT_EQ(metadata.find_float("f32"), 0.5);
    EXPECT_EQ(metadata.find_float("f64"), 1e300);
    EXPECT_EQ(metadata.find_float("i16"), -32768.0);
    EXPECT_EQ(metadata.find_bool("yes"), true);
    EXPECT_EQ(metadata.find_bool("no"), false);
    EXPECT_EQ(*metadata.find_string("text"), std::string("a\xff\0z", 4));
    EXPECT_EQ(*metadata.find_string("empty"), "");
    EXPECT_THAT(*metadata.find_strings("texts"), ElementsAre("", "b", "c"));
    EXPECT_THAT(*metadata.find_ints("i32s"), ElementsAre(-1, 2));
    EXPECT_THAT(*metadata.find_ints("u8s"), ElementsAre(0, 255));
    EXPECT_THAT(*metadata.find_ints("i8s"), ElementsAre(-1));
    EXPECT_THAT(*metadata.find_ints("u16s"), ElementsAre(65535));
    EXPECT_THAT(*metadata.find_ints("i16s"), ElementsAre(-2));
    EXPECT_THAT(*metadata.find_ints("u32s"), ElementsAre(4294967295));
    EXPECT_THAT(*metadata.find_ints("u64s"), ElementsAre(7));
    EXPECT_THAT(*metadata.find_ints("i64s"), ElementsAre(INT64_MIN));
    EXPECT_THAT(*metadata.find_floats("f32s"), ElementsAre(1.5, -2.0));
    EXPECT_THAT(*metadata.find_floats("f64s"), ElementsAre(1e-300));
    EXPECT_EQ(std::get<std::vector<bool>>(metadata.values.at("bools")),
              (std::vector<bool>{true, false, true}));
    EXPECT_TRUE(metadata.find_strings("none")->empty());  // an empty array is one of every kind
    EXPECT_TRUE(metadata.find_ints("none")->empty());
    EXPECT_EQ(metadata.find_ints("absent"), nullptr);
    EXPECT_EQ(metadata.find_int("absent"), std::nullopt);
    EXPECT_TRUE(metadata.has("text"));
    EXPECT_FALSE(metadata.has("absent"));
  }
}

TEST(Gguf, AccessorsNameTheKeyAndTheKind) {
  GgufBuilder builder;
  builder.text("t", "x").u64("big", UINT64_MAX).f32("f", 1.0f).i32s("ints", {1}).flag("b", true);
  std::string bytes = builder.build();
  auto file = parse_gguf("kinds.gguf", as_bytes(bytes));
  const Metadata& metadata = file->metadata();
  struct Case {
    std::function<void()> action;
    const char* message;
  } cases[] = {
      {[&] { metadata.find_int("t"); }, "kinds.gguf: metadata key 't' must be an integer, not a string"},
      {[&] { metadata.find_int("f"); }, "kinds.gguf: metadata key 'f' must be an integer, not a number"},
      {[&] { metadata.find_int("big"); }, "must be an integer below 2^63, not 18446744073709551615"},
      {[&] { metadata.find_float("b"); }, "metadata key 'b' must be a number, not a boolean"},
      {[&] { metadata.find_bool("t"); }, "metadata key 't' must be a boolean, not a string"},
      {[&] { metadata.find_string("ints"); },
       "metadata key 'ints' must be a string, not an array of integers"},
      {[&] { metadata.find_strings("ints"); },
       "metadata key 'ints' must be an array of strings, not an array of integers"},
      {[&] { metadata.find_ints("t"); }, "metadata key 't' must be an array of integers, not a string"},
      {[&] { metadata.find_floats("ints"); },
       "metadata key 'ints' must be an array of numbers, not an array of integers"},
  };
  for (const Case& c : cases) EXPECT_THAT(message_of(c.action), HasSubstr(c.message));
}

TEST(Gguf, TensorsPointIntoTheFile) {
  std::string bytes = small_model().build();
  auto file = parse_gguf("small.gguf", as_bytes(bytes));
  ASSERT_EQ(file->tensors().size(), 3u);
  EXPECT_EQ(file->tensors()[0].name, "token_embd.weight");
  const TensorView* view = file->find("token_embd.weight");
  ASSERT_NE(view, nullptr);
  EXPECT_EQ(view->type, DType::kQ8_0);
  EXPECT_THAT(view->shape, ElementsAre(3, 64));
  EXPECT_EQ(bytes_of(*view), make_pattern("token_embd.weight", 3 * 2 * 34));
  EXPECT_THAT(file->find("cube")->shape, ElementsAre(2, 3, 5));
  EXPECT_EQ(bytes_of(*file->find("cube")), make_pattern("cube", 60));
  EXPECT_EQ(file->find("absent"), nullptr);
  EXPECT_STREQ(file->format(), "gguf");
  const uint8_t* start = as_bytes(bytes).data();
  EXPECT_TRUE(view->data >= start && view->data < start + bytes.size());  // not a copy
}

TEST(Gguf, ReadsEveryTensorType) {
  GgufBuilder builder;
  std::set<std::string> names;
  for (int i = 0; i < kNumDTypes; ++i) {
    DType type = static_cast<DType>(i);
    if (!find_gguf_id(type)) continue;
    builder.tensor(name(type), {2, 512}, type);
    names.insert(name(type));
  }
  EXPECT_EQ(names.size(), 20u);
  std::string bytes = builder.build();
  auto file = parse_gguf("types.gguf", as_bytes(bytes));
  ASSERT_EQ(file->tensors().size(), names.size());
  for (const TensorEntry& entry : file->tensors()) {
    EXPECT_EQ(name(entry.view.type), entry.name);
    EXPECT_EQ(bytes_of(entry.view), make_pattern(entry.name, static_cast<size_t>(entry.view.num_bytes())));
  }
}

TEST(Gguf, OddAlignmentsAndUnalignedTensorsAreReadable) {
  for (uint32_t alignment : {1u, 2u, 8u, 64u, 4096u}) {
    GgufBuilder builder;
    builder.alignment = alignment;
    builder.u32("general.alignment", alignment);
    builder.tensor("a", {3}, DType::kI8).tensor("b", {5}, DType::kF64).tensor("c", {32}, DType::kQ4_0);
    std::string bytes = builder.build();
    auto file = parse_gguf("aligned.gguf", as_bytes(bytes));
    for (const TensorEntry& entry : file->tensors()) {
      EXPECT_EQ(bytes_of(entry.view), make_pattern(entry.name, static_cast<size_t>(entry.view.num_bytes())));
      EXPECT_EQ(reinterpret_cast<uintptr_t>(entry.view.data) %
                    static_cast<uintptr_t>(required_alignment(entry.view.type)),
                0u);
    }
  }
}

TEST(Gguf, EmptyAndScalarTensors) {
  GgufBuilder builder;
  builder.tensor("scalar", {}, DType::kF32).raw_tensor("empty", {4, 0}, 0, 0);
  std::string bytes = builder.build();
  auto file = parse_gguf("edge.gguf", as_bytes(bytes));
  EXPECT_EQ(file->find("scalar")->num_bytes(), 4);
  EXPECT_EQ(file->find("empty")->num_bytes(), 0);
  std::string nothing = GgufBuilder().build();
  EXPECT_TRUE(parse_gguf("nothing.gguf", as_bytes(nothing))->tensors().empty());
}

TEST(Gguf, BadFilesGetOneClearLine) {
  struct Case {
    const char* label;
    std::function<void(GgufBuilder&)> spoil;
    std::vector<const char*> message;
  };
  auto u32_bytes = [](uint32_t value) { return std::string(reinterpret_cast<const char*>(&value), 4); };
  auto array_bytes = [&](uint32_t type, uint64_t count) {
    return u32_bytes(type) + std::string(reinterpret_cast<const char*>(&count), 8);
  };
  const Case cases[] = {
      {"magic", [](GgufBuilder& b) { b.magic = "GGML"; }, {"bad.gguf: ", "does not start with \"GGUF\""}},
      {"v1", [](GgufBuilder& b) { b.version = 1; }, {"GGUF version 1 is not supported"}},
      {"v4", [](GgufBuilder& b) { b.version = 4; }, {"GGUF version 4 is newer"}},
      {"big-endian", [](GgufBuilder& b) { b.version = 0x03000000; }, {"big-endian"}},
      {"tensor count",
       [](GgufBuilder& b) { b.num_tensors = uint64_t{1} << 60; },
       {"1152921504606846976 tensors cannot fit"}},
      {"key count",
       [](GgufBuilder& b) { b.num_keys = UINT64_MAX; },
       {"18446744073709551615 metadata keys cannot fit"}},
      {"one tensor too many", [](GgufBuilder& b) { b.num_tensors = 4; }, {"bad.gguf: tensor"}},
      {"duplicate key",
       [](GgufBuilder& b) { b.u32("llama.block_count", 3); },
       {"metadata key 'llama.block_count'", "appears twice"}},
      {"empty key",
       [](GgufBuilder& b) { b.u32("", 3); },
       {"metadata key 6 of 6", "empty or not plain UTF-8"}},
      {"control in key", [](GgufBuilder& b) { b.u32("a\nb", 3); }, {"'a\\x0ab'", "not plain UTF-8"}},
      {"bad UTF-8 in key", [](GgufBuilder& b) { b.u32("a\xff", 3); }, {"'a\\xff'", "not plain UTF-8"}},
      {"long key",
       [](GgufBuilder& b) { b.u32(std::string(70000, 'k'), 3); },
       {"has 70000 bytes, the limit is 65535"}},
      {"value type",
       [](GgufBuilder& b) { b.raw_key("odd", 13, "xxxx"); },
       {"metadata key 'odd'", "unknown value type 13"}},
      {"bool",
       [](GgufBuilder& b) { b.raw_key("flag", 7, "\x02"); },
       {"metadata key 'flag'", "must be 0 or 1, not 2"}},
      {"string length",
       [](GgufBuilder& b) { b.raw_key("s", 8, "\xff\xff\xff\xff\xff\xff\xff\xff"); },
       {"metadata key 's'", "claims 18446744073709551615 bytes"}},
      {"array count",
       [&](GgufBuilder& b) { b.raw_key("a", 9, array_bytes(10, uint64_t{1} << 61)); },
       {"metadata key 'a'", "2305843009213693952 array elements cannot fit"}},
      {"string array count",
       [&](GgufBuilder& b) { b.raw_key("a", 9, array_bytes(8, uint64_t{1} << 60)); },
       {"metadata key 'a'", "1152921504606846976 array elements cannot fit"}},
      {"array type",
       [&](GgufBuilder& b) { b.raw_key("a", 9, array_bytes(99, 1)); },
       {"metadata key 'a'", "unknown value type 99"}},
      {"nested array",
       [&](GgufBuilder& b) { b.raw_key("a", 9, array_bytes(9, 1) + array_bytes(4, 0)); },
       {"metadata key 'a'", "arrays of arrays are not supported"}},
      {"u64 in array",
       [](GgufBuilder& b) { b.numbers<uint64_t>("a", GgufValue::kU64, {UINT64_MAX}); },
       {"metadata key 'a'", "2^63 or more"}},
      {"alignment 0",
       [](GgufBuilder& b) { b.u32("general.alignment", 0); },
       {"'general.alignment'", "power of two", "not 0"}},
      {"alignment 24",
       [](GgufBuilder& b) { b.u32("general.alignment", 24); },
       {"'general.alignment'", "power of two", "not 24"}},
      {"alignment kind",
       [](GgufBuilder& b) { b.text("general.alignment", "32"); },
       {"'general.alignment' must be an integer"}},
      {"huge alignment",
       [](GgufBuilder& b) { b.u64("general.alignment", uint64_t{1} << 62); },
       {"'general.alignment'", "power of two"}},
      {"unsupported type",
       [](GgufBuilder& b) { b.raw_tensor("t", {256}, 16, 0); },
       {"tensor 't'", "type 16 (IQ2_XXS) is not supported", "F32 F16 Q4_0", "BF16"}},
      {"unknown type",
       [](GgufBuilder& b) { b.raw_tensor("t", {256}, 77, 0); },
       {"tensor 't'", "type 77 (unknown) is not supported"}},
      {"five dimensions",
       [](GgufBuilder& b) {
         b.raw_tensor("t", {1, 1, 1, 1, 1}, 0, 0);
       },
       {"tensor 't'", "5 dimensions, the format allows 4"}},
      {"negative dimension",
       [](GgufBuilder& b) { b.raw_tensor("t", {UINT64_MAX}, 0, 0); },
       {"tensor 't'", "dimension 0 is 18446744073709551615"}},
      {"overflowing product",
       [](GgufBuilder& b) {
         b.raw_tensor("t", {1u << 31, 1u << 31, 1u << 31}, 0, 0);
       },
       {"tensor 't'", "overflows"}},
      {"overflow hidden by a zero",
       [](GgufBuilder& b) {
         b.raw_tensor("t", {0, uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0);
       },
       {"tensor 't'", "overflows"}},
      {"overflowing bytes",
       [](GgufBuilder& b) { b.raw_tensor("t", {uint64_t{1} << 61}, 28, 0); },
       {"tensor 't'", "overflows"}},
      {"row and block",
       [](GgufBuilder& b) {
         b.raw_tensor("t", {33, 2}, 2, 0);
       },
       {"tensor 't'", "rows of 33 elements", "the 32", "q4_0"}},
      {"scalar block",
       [](GgufBuilder& b) { b.raw_tensor("t", {}, 12, 0); },
       {"tensor 't'", "rows of 1 elements", "q4_k"}},
      {"unaligned offset",
       [](GgufBuilder& b) { b.raw_tensor("t", {1}, 0, 7); },
       {"tensor 't'", "offset 7 is no multiple of general.alignment 32"}},
      {"offset out of range",
       [](GgufBuilder& b) { b.raw_tensor("t", {1}, 0, uint64_t{1} << 40); },
       {"tensor 't'", "beyond the end of the file"}},
      {"offset wraps",
       [](GgufBuilder& b) { b.raw_tensor("t", {8}, 0, UINT64_MAX - 31); },
       {"tensor 't'", "beyond the end of the file"}},
      {"too long",
       [](GgufBuilder& b) { b.raw_tensor("t", {1 << 20}, 0, 0); },
       {"tensor 't'", "4194304 bytes at offset 0", "beyond the end"}},
      {"overlap",
       [](GgufBuilder& b) { b.raw_tensor("t", {8}, 0, 32); },
       {"'t'", "overlaps", "'token_embd.weight'"}},
      {"duplicate tensor",
       [](GgufBuilder& b) { b.tensor("cube", {4}, DType::kF32); },
       {"two tensors are named 'cube'"}},
      {"empty tensor name",
       [](GgufBuilder& b) { b.raw_tensor("", {1}, 0, 0); },
       {"tensor 4 of 4", "empty or not plain UTF-8"}},
      {"long tensor name",
       [](GgufBuilder& b) { b.raw_tensor(std::string(5000, 'n'), {1}, 0, 0); },
       {"has 5000 bytes, the limit is 1024"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.label);
    GgufBuilder builder = small_model();
    c.spoil(builder);
    std::string message = parse_message(builder.build());
    EXPECT_THAT(message, HasSubstr("bad.gguf: "));
    for (const char* part : c.message) EXPECT_THAT(message, HasSubstr(part));
    EXPECT_LT(message.size(), 500u) << message;
  }
}

TEST(Gguf, TruncationAnywhereIsAnError) {
  std::string whole = small_model().build();
  for (size_t size = 0; size < whole.size(); ++size) {
    std::string bytes(whole, 0, size);
    std::string message = parse_message(bytes);
    EXPECT_THAT(message, HasSubstr("bad.gguf")) << size;
  }
  EXPECT_THAT(parse_message(whole.substr(0, 30)), HasSubstr("truncated"));
  EXPECT_THAT(parse_message(whole.substr(0, whole.size() - 1)), HasSubstr("tensor 'cube'"));
}

TEST(Gguf, EverySingleByteChangeIsAnErrorOrAFile) {
  std::string whole = small_model().build();
  for (size_t at = 0; at < whole.size(); ++at) {
    for (uint8_t flip : {0x01, 0x80, 0xff}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      try {
        parse_gguf("flipped.gguf", as_bytes(bytes));
      } catch (const Error&) {
      }
    }
  }
}

TEST(Gguf, AFileFullOfNumbersCannotAskForMemory) {
  // 16 million bytes as an array of u8 take eight times that; the budget ends it in one line long before the
  // next array.
  GgufBuilder builder;
  std::vector<uint8_t> bytes(16 << 20);
  for (int i = 0; i < 5; ++i) builder.numbers("a" + std::to_string(i), GgufValue::kU8, bytes);
  EXPECT_THAT(parse_message(builder.build()), HasSubstr("more than 512 MiB of memory"));
}

TEST(Gguf, LargeVocabularyOpens) {
  std::vector<std::string> tokens, merges;
  for (int i = 0; i < 150000; ++i) {
    tokens.push_back("token" + std::to_string(i));
    merges.push_back("some left " + std::to_string(i));
  }
  GgufBuilder builder;
  builder.texts("tokenizer.ggml.tokens", tokens).texts("tokenizer.ggml.merges", merges);
  std::string bytes = builder.build();
  auto file = parse_gguf("vocabulary.gguf", as_bytes(bytes));
  EXPECT_EQ(file->metadata().find_strings("tokenizer.ggml.tokens")->at(149999), "token149999");
}

// Writes the small model as three parts; returns the paths.
std::vector<std::string> write_split(const std::string& folder,
                                     const std::function<void(int, GgufBuilder&)>& change = {}) {
  std::vector<std::string> paths;
  for (int part = 0; part < 3; ++part) {
    GgufBuilder builder;
    if (part == 0) builder.text("general.architecture", "llama").u32("llama.block_count", 2);
    builder.u16("split.no", static_cast<uint16_t>(part));
    if (!change) builder.u16("split.count", 3).i32("split.tensors.count", 4);
    if (change) change(part, builder);
    if (part == 0) builder.tensor("a", {8}, DType::kF32).tensor("b", {2, 64}, DType::kQ4_0);
    if (part == 1) builder.tensor("c", {4, 4}, DType::kF16);
    if (part == 2) builder.tensor("d", {256}, DType::kQ6_K);
    paths.push_back(folder + "/model-0000" + std::to_string(part + 1) + "-of-00003.gguf");
    builder.write(paths.back());
  }
  return paths;
}

TEST(GgufSplit, AnyPartOpensAll) {
  std::string folder = make_folder();
  std::vector<std::string> paths = write_split(folder);
  paths.push_back(folder);
  for (const std::string& path : paths) {
    auto file = open_weights(path);
    EXPECT_EQ(file->path(), path == folder ? paths[0] : path);
    EXPECT_EQ(file->description(), "GGUF v3, 3 parts");
    EXPECT_EQ(file->parts().size(), 3u);
    EXPECT_EQ(*file->metadata().find_string("general.architecture"), "llama");
    ASSERT_EQ(file->tensors().size(), 4u);
    for (const TensorEntry& entry : file->tensors()) {
      EXPECT_EQ(bytes_of(entry.view), make_pattern(entry.name, static_cast<size_t>(entry.view.num_bytes())))
          << entry.name;
    }
    EXPECT_EQ(file->tensors()[3].name, "d");
  }
}

TEST(GgufSplit, MissingPartsAreNamed) {
  std::string folder = make_folder();
  std::vector<std::string> paths = write_split(folder);
  std::filesystem::remove(paths[1]);
  EXPECT_THAT(message_of([&] { open_weights(paths[2]); }), HasSubstr("model-00002-of-00003.gguf"));
  std::filesystem::remove(paths[0]);
  std::string message = message_of([&] { open_weights(paths[2]); });
  EXPECT_THAT(message, HasSubstr("2 are missing"));
  EXPECT_THAT(message, HasSubstr("model-00001-of-00003.gguf, model-00002-of-00003.gguf"));
  std::filesystem::rename(paths[2], folder + "/renamed.gguf");
  EXPECT_THAT(message_of([&] { open_weights(folder + "/renamed.gguf"); }),
              HasSubstr("its name does not end in -00001-of-00003.gguf"));
}

TEST(GgufSplit, InconsistentPartsAreErrors) {
  struct Case {
    const char* label;
    std::function<void(int, GgufBuilder&)> change;
    const char* message;
  } cases[] = {
      {"count differs", [](int part, GgufBuilder& b) { b.u16("split.count", part == 2 ? 4 : 3); },
       "'split.count' must be 3 in this part, but is 4"},
      {"count absent",
       [](int part, GgufBuilder& b) {
         if (part == 0) b.u16("split.count", 3);
       },
       "'split.count' must be 3 in this part, but is absent"},
      {"name differs", [](int, GgufBuilder& b) { b.u16("split.count", 2); },
       "its name says 3 parts and its metadata key 'split.count' says 2"},
      {"total", [](int, GgufBuilder& b) { b.u16("split.count", 3).i32("split.tensors.count", 5); },
       "'split.tensors.count' says 5, but the 3 parts hold 4"},
      {"twice",
       [](int part, GgufBuilder& b) {
         b.u16("split.count", 3);
         if (part == 2) b.tensor("a", {1}, DType::kF32);
       },
       "two tensors are named 'a'"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.label);
    std::vector<std::string> paths = write_split(make_folder(), c.change);
    EXPECT_THAT(message_of([&] { open_weights(paths[0]); }), HasSubstr(c.message));
  }
  std::vector<std::string> paths = write_split(make_folder());
  std::filesystem::copy_file(paths[1], paths[2], std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(message_of([&] { open_weights(paths[0]); }),
              HasSubstr("'split.no' must be 2 in this part, but is 1"));
}

TEST(Gguf, RealModel) {
  auto path = find_test_data("stories260K/stories260K.gguf");
  if (!path) GTEST_SKIP() << "needs models/stories260K";
  EXPECT_TRUE(is_gguf(*path));
  auto file = open_weights(*path);
  EXPECT_EQ(file->tensors().size(), 48u);
  EXPECT_EQ(*file->metadata().find_string("general.architecture"), "llama");
  EXPECT_EQ(file->metadata().find_strings("tokenizer.ggml.tokens")->size(), 512u);
  const TensorView* embedding = file->find("token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_THAT(embedding->shape, ElementsAre(512, 64));
  float first;
  std::memcpy(&first, embedding->data, 4);
  EXPECT_TRUE(first > -10.0f && first < 10.0f);
}

TEST(GgufSplit, RealModelInThreeParts) {
  auto path = find_test_data("stories260K/stories260K.gguf");
  if (!path) GTEST_SKIP() << "needs models/stories260K";
  auto whole = open_weights(*path);
  std::string folder = make_folder();
  std::vector<std::string> paths;
  for (uint16_t part = 0; part < 3; ++part) {
    GgufBuilder builder;
    if (part == 0) builder.text("general.architecture", "llama");
    builder.u16("split.no", part).u16("split.count", 3).i32("split.tensors.count", 48);
    for (size_t i = part * 16u; i < part * 16u + 16u; ++i) {
      const TensorEntry& entry = whole->tensors()[i];
      builder.tensor(entry.name, entry.view.shape, entry.view.type, bytes_of(entry.view));
    }
    paths.push_back(folder + "/stories-0000" + std::to_string(part + 1) + "-of-00003.gguf");
    builder.write(paths.back());
  }
  for (const std::string& part : paths) {
    auto file = open_weights(part);
    ASSERT_EQ(file->tensors().size(), 48u);
    for (const TensorEntry& entry : whole->tensors()) {
      const TensorView* view = file->find(entry.name);
      ASSERT_NE(view, nullptr) << entry.name;
      EXPECT_EQ(view->shape, entry.view.shape);
      EXPECT_EQ(bytes_of(*view), bytes_of(entry.view)) << entry.name;
    }
  }
}

TEST(Gguf, RealFilesOfEveryType) {
  auto folder = find_test_data("quant");
  if (!folder) GTEST_SKIP() << "needs test data quant; set SLUICE_TEST_DATA";
  int num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    if (entry.path().extension() != ".gguf") continue;
    auto file = open_weights(entry.path().string());
    EXPECT_EQ(file->tensors().size(), 30u) << entry.path();
    // The last byte of the last tensor can be read.
    const TensorView& last = file->tensors().back().view;
    volatile uint8_t byte = last.data[last.num_bytes() - 1];
    (void)byte;
    ++num_files;
  }
  EXPECT_EQ(num_files, 15);
}

TEST(Gguf, RealVocabularies) {
  auto folder = find_test_data("tokenizers");
  if (!folder) GTEST_SKIP() << "needs test data tokenizers; set SLUICE_TEST_DATA";
  int num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    if (entry.path().extension() != ".gguf") continue;
    auto file = open_weights(entry.path().string());
    EXPECT_TRUE(file->tensors().empty());
    EXPECT_GT(file->metadata().find_strings("tokenizer.ggml.tokens")->size(), 10000u);
    ++num_files;
  }
  EXPECT_GE(num_files, 6);
}

}  // namespace
}  // namespace sluice::formats
