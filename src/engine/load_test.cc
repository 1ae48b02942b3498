#include "base/json.h"
#include "engine/load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "base/error.h"
#include "base/test_data.h"
#include "engine/engine.h"
#include "text/detokenizer.h"

namespace sluice::engine {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// The built-in model lies in the repository, others among the larger test data.
std::optional<std::string> find_model(const std::string& relative) {
  auto path = find_test_data(relative);
  return path ? path : find_test_data("llm/" + relative);
}

constexpr const char* kNeedsData = "needs test data llm/; set SLUICE_TEST_DATA";

// A folder of one test, gone afterwards.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("sluice_load_test_" + std::to_string(getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(path_ / name) << text;
  }
  void copy(const fs::path& from) {
    std::error_code ignored;
    fs::copy_file(from, path_ / from.filename(), ignored);
    fs::permissions(path_ / from.filename(), fs::perms::owner_all, ignored);
  }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

// Greedy text of `count` tokens after the prompt.
std::string generate(LoadedModel& loaded, const std::string& prompt, int64_t count) {
  Engine engine(*loaded.model, *loaded.pool,
                {.kv_cache_memory_bytes = 16 << 20, .end_tokens = loaded.end_tokens});
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<int32_t> said;
  bool is_over = false;
  Request request;
  request.id = "a";
  request.prompt = loaded.tokenizer->encode(prompt);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = count;
  request.sink = [&](Event&& event) {
    std::lock_guard lock(mutex);
    EXPECT_FALSE(event.error.has_value()) << event.error->message();
    said.insert(said.end(), event.tokens.begin(), event.tokens.end());
    is_over = event.is_last;
    changed.notify_all();
  };
  std::vector<int32_t> ids = request.prompt;
  EXPECT_EQ(engine.submit(std::move(request)), SubmitResult::kAccepted);
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return is_over; });
  text::Detokenizer detokenizer(*loaded.tokenizer, {}, ids);
  std::string text;
  for (int32_t token : said) text += detokenizer.push(token);
  return text + detokenizer.finish();
}

TEST(Load, GgufTellsItsKnownStory) {
  auto path = find_model("stories260K/stories260K.gguf");
  if (!path) GTEST_SKIP() << kNeedsData;
  LoadedModel loaded = load(*path, {.num_threads = 2});
  EXPECT_EQ(loaded.end_tokens, (std::vector<int32_t>{1, 2})) << "stories260K.generation_config.json";
  // stories260K.jinja lies beside the file.
  ASSERT_NE(loaded.chat_template, nullptr);
  json::array messages = json::parse(R"([{"role":"user","content":"Once"}])").as_array();
  EXPECT_EQ(loaded.chat_template->render(messages, {}), "<s>Once");
  EXPECT_EQ(loaded.tokenizer->special_ids().bos, 1);
  EXPECT_EQ(loaded.tokenizer->special_ids().pad, -1) << "4294967295 is none";
  EXPECT_THAT(generate(loaded, "", 60),
              HasSubstr("Once upon a time, there was a little girl named Lily. She loved to play "
                        "outside in the park. One day,"));
  EXPECT_GT(loaded.load_seconds, 0);
}

TEST(Load, HuggingFaceFolder) {
  auto path = find_model("TinyStories-656K-hf");
  if (!path) GTEST_SKIP() << kNeedsData;
  LoadedModel loaded = load(*path, {.num_threads = 2});
  EXPECT_EQ(loaded.end_tokens, std::vector<int32_t>{2});
  EXPECT_FALSE(loaded.defaults.temperature.has_value());
  std::string story = generate(loaded, "Once upon a time", 60);
  EXPECT_GT(story.size(), 100u);
  EXPECT_THAT(story, HasSubstr("the"));
}

TEST(Load, DefaultsTemplatesAndEndsOfAFolder) {
  auto original = find_model("TinyStories-656K-hf");
  if (!original) GTEST_SKIP() << kNeedsData;
  Folder folder;
  for (const char* name :
       {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
    folder.copy(fs::path(*original) / name);
  }
  EXPECT_FALSE(load(folder.path(), {.num_threads = 1}).defaults.top_k.has_value());
  folder.write(
      "generation_config.json",
      R"({"eos_token_id": [2, 7, 5000], "temperature": 0.6, "top_k": 20, "top_p": 0.95, "max_new_tokens": 0, "do_sample": true})");
  folder.write("chat_template.json", R"J({"chat_template": [{"name": "tool_use", "template": "no"},
      {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}]})J");
  LoadedModel loaded = load(folder.path(), {.num_threads = 1});
  EXPECT_EQ(loaded.end_tokens, (std::vector<int32_t>{2, 7})) << "5000 is outside the vocabulary";
  EXPECT_EQ(loaded.defaults.temperature, 0.6);
  EXPECT_EQ(loaded.defaults.top_k, 20);
  EXPECT_EQ(loaded.defaults.top_p, 0.95);
  EXPECT_FALSE(loaded.defaults.max_new_tokens.has_value());
  ASSERT_NE(loaded.chat_template, nullptr);
  json::array messages = json::parse(R"([{"role": "user", "content": "hi"}])").as_array();
  EXPECT_EQ(loaded.chat_template->render(messages, {}), "<|start_story|>hi");

  loaded =
      load(folder.path(), {.num_threads = 1, .chat_template = "mine", .generation_config = "none"});
  EXPECT_EQ(loaded.chat_template->source(), "mine");
  EXPECT_FALSE(loaded.defaults.temperature.has_value());

  folder.write("chat_template.jinja", "file");
  EXPECT_EQ(load(folder.path(), {.num_threads = 1}).chat_template->source(), "file");
  folder.write("chat_template.jinja", "{% if %}");
  EXPECT_EQ(load(folder.path(), {.num_threads = 1}).chat_template, nullptr)
      << "completions still work";

  auto message = [&](const LoadOptions& options) -> std::string {
    try {
      load(folder.path(), options);
    } catch (const Error& error) {
      return error.message();
    }
    return "";
  };
  EXPECT_THAT(message({.num_threads = 1, .chat_template = "{% if %}"}), HasSubstr("line 1"));
  folder.write("generation_config.json", R"({"temperature": "hot"})");
  EXPECT_THAT(message({.num_threads = 1}), HasSubstr("generation_config.json: "));
  folder.write("generation_config.json", "{");
  EXPECT_THAT(message({.num_threads = 1}), HasSubstr("generation_config.json: "));
  EXPECT_THAT(message({.num_threads = 1, .generation_config = "/nowhere"}), HasSubstr("/nowhere"));
  fs::remove(folder.path() + "/tokenizer.json");
  EXPECT_EQ(load(folder.path(), {.num_threads = 1, .generation_config = "none"}).tokenizer,
            nullptr);
  EXPECT_NE(message({.num_threads = 1, .tokenizer_path = folder.path()}), "");
}

TEST(Load, Errors) {
  EXPECT_THROW(load("/nowhere/model.gguf", {}), Error);
  EXPECT_THROW(load_tokenizer("/nowhere"), Error);
  EXPECT_THROW(load("/nowhere", {.num_threads = -1}), Error);
  Folder folder;
  EXPECT_THROW(load(folder.path(), {}), Error);
  EXPECT_THROW(load_tokenizer(folder.path()), Error);
}

TEST(Load, TokenizersOfVocabularyFiles) {
  auto path = find_test_data("tokenizers/ggml-vocab-gpt-2.gguf");
  if (!path) GTEST_SKIP() << "needs test data tokenizers; set SLUICE_TEST_DATA";
  std::unique_ptr<text::Tokenizer> tokenizer = load_tokenizer(*path);
  EXPECT_EQ(tokenizer->encode("Hello world", {.add_special = false}),
            (std::vector<int32_t>{15496, 995}));
  tokenizer = load_tokenizer(*find_test_data("tokenizers/hf-llama2"));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("Hello world"), true), "Hello world");
  Folder folder;
  folder.copy(*path);
  EXPECT_EQ(load_tokenizer(folder.path())->encode("Hello", {.add_special = false}),
            std::vector<int32_t>{15496});
}

}  // namespace
}  // namespace sluice::engine
