#include "formats/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/test_data.h"
#include "formats/gguf_builder_for_test.h"
#include "formats/mapped_weights.h"
#include "formats/names.h"

namespace sluice::formats {
namespace {

using ::testing::HasSubstr;

std::span<const uint8_t> as_bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string make_bytes() {
  GgufBuilder builder;
  builder.text("general.architecture", "llama")
      .u32("general.file_type", 15)
      .f32("llama.rope.freq_base", 0.1f);
  builder.texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a\xff", "b", "c"})
      .u32("tokenizer.ggml.bos_token_id", 1)
      .u32("z_token_id", UINT32_MAX);
  builder.i32s("tokenizer.ggml.token_type", {2, 3, 3, 1, 1})
      .text("long", std::string(5000, 'x'))
      .u64("max", UINT64_MAX);
  builder.tensor("token_embd.weight", {6, 256}, DType::kQ4_K).tensor("norm.weight", {256}, DType::kF32);
  return builder.build();
}

TEST(Inspect, TextForAPerson) {
  std::string bytes = make_bytes();
  auto file = parse_gguf("dir/model.gguf", as_bytes(bytes));
  EXPECT_EQ(
      describe(*file),
      "dir/model.gguf\n"
      "GGUF v3, 2 tensors, 1.79 K parameters, 8.43 bits per weight\n"
      "\n"
      "metadata (9 keys)\n"
      "  general.architecture         \"llama\"\n"
      "  general.file_type            15  (Q4_K_M)\n"
      "  llama.rope.freq_base         0.1\n"
      "  long                         \"" +
          std::string(100, 'x') +
          "\"... (5000 bytes)\n"
          "  max                          18446744073709551615\n"
          "  tokenizer.ggml.bos_token_id  1  (\"<s>\")\n"
          "  tokenizer.ggml.token_type    [5 integers: 2, 3, 3, 1, 1]\n"
          "  tokenizer.ggml.tokens        [6 strings: \"<unk>\", \"<s>\", \"</s>\", \"a\xEF\xBF\xBD\", ...]\n"
          "  z_token_id                   4294967295  (none)\n"
          "\n"
          "tensors (2; shapes are outermost first)\n"
          "  name               type  shape       size\n"
          "  token_embd.weight  q4_k  6 x 256    864 B\n"
          "  norm.weight        f32   256      1.0 KiB\n"
          "\n"
          "types\n"
          "  type   tensors  parameters     size   share\n"
          "  f32          1         256  1.0 KiB   54.2%\n"
          "  q4_k         1      1.54 K    864 B   45.8%\n"
          "  total        2      1.79 K  1.8 KiB  100.0%\n");
  EXPECT_THAT(describe(*file, {.with_tensors = false}), Not(HasSubstr("token_embd")));
}

TEST(Inspect, JsonForAProgram) {
  std::string bytes = make_bytes();
  auto file = parse_gguf("model.gguf", as_bytes(bytes));
  std::string text = json::serialize(describe_as_json(*file));
  json::value parsed = json::parse(text);
  const json::object& metadata = parsed.at("metadata").as_object();
  EXPECT_EQ(metadata.at("general.file_type").as_int64(), 15);
  EXPECT_EQ(metadata.at("max").as_uint64(), UINT64_MAX);
  EXPECT_EQ(metadata.at("tokenizer.ggml.tokens").as_array().size(), 6u);
  EXPECT_EQ(metadata.at("tokenizer.ggml.tokens").at(3).as_string(), "a\xEF\xBF\xBD");
  EXPECT_EQ(metadata.at("long").as_string().size(), 5000u);
  EXPECT_EQ(json::serialize(parsed.at("tensors").at(0)),
            R"({"name":"token_embd.weight","type":"q4_k","shape":[6,256],"bytes":864})");
  EXPECT_EQ(
      json::serialize(parsed.at("totals").at("types")),
      R"({"f32":{"tensors":1,"parameters":256,"bytes":1024},"q4_k":{"tensors":1,"parameters":1536,"bytes":864}})");
  EXPECT_EQ(parsed.at("totals").at("tensors").as_int64(), 2);
  EXPECT_EQ(parsed.at("format").as_string(), "gguf");
}

TEST(Inspect, RealModel) {
  auto path = find_test_data("stories260K/stories260K.gguf");
  if (!path) GTEST_SKIP() << "needs models/stories260K";
  std::string text = describe(*open_weights(*path));
  EXPECT_THAT(text, HasSubstr("GGUF v3, 1.1 MiB, 48 tensors"));
  EXPECT_THAT(text, HasSubstr("[512 strings: \"<unk>\", \"<s>\", \"</s>\", \"<0x00>\", ...]"));
}

TEST(Names, Utf8AndQuoting) {
  for (const char* good : {"", "abc", "é", "▁the", "😀", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                          "\xF8\x88\x80\x80\x80", "\xE2\x82", "a\xC3"}) {
    EXPECT_FALSE(is_utf8(bad)) << quote(bad);
    EXPECT_TRUE(is_utf8(to_utf8(bad)));
  }
  EXPECT_EQ(quote("a\n\x7f\xff é"), "'a\\x0a\\x7f\\xff é'");
  EXPECT_EQ(quote("abcdef", 3), "'abc...'");
  EXPECT_EQ(quote("aéé", 4), "'aé...'");
}

}  // namespace
}  // namespace sluice::formats
