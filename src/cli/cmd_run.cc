// sluice run: a model at the terminal. One prompt, a pipe, or a chat with history when interactive.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "serve/backend_llm.h"
#include "serve/generation.h"

namespace sluice::cli {
namespace {

struct Flags {
  std::string model, prompt, system;
  bool raw = false, verbose = false;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k, max_tokens;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  engine::LoadOptions load;
  EngineFlags engine;
};

std::atomic<int> g_interrupts{0};

// The first Ctrl-C ends the answer, a second one before that has happened ends the program.
void on_interrupt(int) {
  if (++g_interrupts > 1) _exit(130);
}

const char kHelp[] =
    "  /clear            forget the conversation\n"
    "  /system TEXT      set the system message and start anew\n"
    "  /set NAME VALUE   temperature, top_p, top_k, min_p, repetition_penalty, max_tokens or seed\n"
    "  /bye              leave (also Ctrl-D)\n"
    "  \"\"\"               begins and ends a message of several lines\n"
    "  Ctrl-C            stops an answer\n";

class Chat {
 public:
  Chat(serve::LlmModel& model, Flags& flags) : model_(model), flags_(flags) { clear(); }

  void clear() {
    messages_.clear();
    if (!flags_.system.empty()) messages_.push_back(json::object{{"role", "system"}, {"content", flags_.system}});
  }

  // Streams the answer to standard output; keeps both sides as history.
  void say(const std::string& text) {
    serve::GenerateRequest request;
    request.id = fmt::format("run-{:08x}", static_cast<uint32_t>(random_seed()));
    if (raw()) {
      request.prompt = text;
    } else {
      messages_.push_back(json::object{{"role", "user"}, {"content", text}});
      serve::ChatPrompt chat;
      chat.messages = messages_;
      request.prompt = chat;
      request.prompt_param = "messages";
      request.add_special_tokens = false;  // the template writes them
    }
    request.temperature = flags_.temperature;
    request.top_p = flags_.top_p;
    request.min_p = flags_.min_p;
    request.top_k = flags_.top_k;
    request.repetition_penalty = flags_.repetition_penalty;
    request.max_tokens = flags_.max_tokens;
    request.sampling.seed = flags_.seed;
    request.stop = flags_.stop;
    std::string answer;
    g_interrupts = 0;
    auto generation = model_.generate(std::move(request), nullptr);
    if (raw()) std::fwrite(text.data(), 1, text.size(), stdout);
    while (std::optional<serve::Chunk> chunk = generation->next()) {
      if (chunk->error) throw *chunk->error;
      std::fwrite(chunk->text.data(), 1, chunk->text.size(), stdout);
      std::fflush(stdout);
      answer += chunk->text;
      if (g_interrupts > 0) {
        generation->cancel();
        break;
      }
    }
    std::printf("\n");
    if (!raw()) messages_.push_back(json::object{{"role", "assistant"}, {"content", answer}});
    if (flags_.verbose) {
      serve::Usage usage = generation->usage();
      std::fprintf(stderr, "%lld prompt tokens (%lld from the cache), first token after %.0f ms; %lld tokens at %.1f tokens/s\n",
                   static_cast<long long>(usage.prompt_tokens), static_cast<long long>(usage.cached_tokens),
                   generation->first_token_ms(), static_cast<long long>(usage.completion_tokens),
                   generation->tokens_per_second());
    }
  }

  bool raw() const { return flags_.raw || !model_.loaded().chat_template; }
  // The last user message did not get its answer.
  void take_back() {
    if (!messages_.empty() && messages_.back().at("role") == "user") messages_.pop_back();
  }

 private:
  serve::LlmModel& model_;
  Flags& flags_;
  json::array messages_;
};

void set_parameter(Flags& flags, const std::string& name, const std::string& value) {
  double number = 0;
  try {
    size_t used = 0;
    number = std::stod(value, &used);
    if (used != value.size()) throw std::invalid_argument(value);
  } catch (const std::exception&) {
    fail(Code::kInvalidArgument, "'{}' is not a number", value);
  }
  if (name == "temperature") flags.temperature = number;
  else if (name == "top_p") flags.top_p = number;
  else if (name == "min_p") flags.min_p = number;
  else if (name == "top_k") flags.top_k = static_cast<int64_t>(number);
  else if (name == "repetition_penalty") flags.repetition_penalty = number;
  else if (name == "max_tokens") flags.max_tokens = static_cast<int64_t>(number);
  else if (name == "seed") flags.seed = static_cast<uint64_t>(number);
  else fail(Code::kInvalidArgument, "no parameter '{}'; /? lists them", name);
}

// One message, which """ may spread over several lines; nullopt at the end of input.
std::optional<std::string> read_message() {
  std::string line;
  std::printf(">>> ");
  std::fflush(stdout);
  if (!std::getline(std::cin, line)) return std::nullopt;
  const std::string fence = "\"\"\"";
  if (!line.starts_with(fence)) return line;
  std::string text = line.substr(3);
  while (text.find(fence) == std::string::npos) {
    std::printf("... ");
    std::fflush(stdout);
    if (!std::getline(std::cin, line)) return std::nullopt;
    text += (text.empty() ? "" : "\n") + line;
  }
  return text.substr(0, text.find(fence));
}

// False: the user wants to leave.
bool obey(const std::string& line, Flags& flags, Chat& chat) {
  if (line == "/bye" || line == "/exit" || line == "/quit") return false;
  std::string command = line.substr(0, line.find(' '));
  std::string rest = line.find(' ') == std::string::npos ? "" : line.substr(line.find(' ') + 1);
  if (command == "/clear") {
    chat.clear();
  } else if (command == "/system") {
    flags.system = rest;
    chat.clear();
  } else if (command == "/set") {
    size_t space = rest.find(' ');
    set_parameter(flags, rest.substr(0, space), space == std::string::npos ? "" : rest.substr(space + 1));
  } else {
    std::printf("%s", kHelp);
  }
  return true;
}

void converse(Flags& flags, Chat& chat) {
  std::printf(chat.raw() ? "This model has no chat template: it goes on with what you write. /? for help.\n"
                         : "Send a message. /? for help.\n");
  while (std::optional<std::string> line = read_message()) {
    if (line->find_first_not_of(" \t") == std::string::npos) continue;
    try {
      if (line->starts_with("/")) {
        if (!obey(*line, flags, chat)) return;
      } else {
        chat.say(*line);
      }
    } catch (const Error& error) {
      chat.take_back();
      std::printf("%s\n", error.message().c_str());
    }
  }
  std::printf("\n");
}

void run(Flags& flags) {
  if (log::is_on(log::Level::kInfo)) log::configure(log::Level::kWarning, log::Format::kText);  // the screen is the user's
  serve::LlmOptions options;
  engine::LoadedModel loaded = engine::load(flags.model, flags.load);
  if (!loaded.tokenizer) {
    fail(Code::kFailedPrecondition, "{}: no tokenizer beside the model; name one with --tokenizer", flags.model);
  }
  options.engine = flags.engine.resolve(loaded);
  options.log_interval_seconds = 0;
  serve::LlmModel model(std::move(loaded), options, nullptr);
  Chat chat(model, flags);
  const bool from_terminal = isatty(STDIN_FILENO) != 0;
  std::signal(SIGINT, on_interrupt);
  if (!flags.prompt.empty() || !from_terminal) {
    std::string text = flags.prompt;
    if (!from_terminal && text.empty()) text = read_stream_or_file("-");
    chat.say(text);
  } else {
    converse(flags, chat);
  }
}

}  // namespace

void add_run(CLI::App& parent) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("run", "Talk to a model at the terminal");
  command->add_option("model", flags->model, "GGUF file or Hugging Face folder; default: the built-in model");
  command->add_option("prompt", flags->prompt, "answer this and end; without it: standard input, or a chat at a terminal");
  command->add_option("--system", flags->system, "system message");
  command->add_flag("--raw", flags->raw, "no chat template: go on with the prompt as it is");
  command->add_flag("-v,--verbose", flags->verbose, "tell token counts and speed after each answer");
  auto* group = "Sampling (defaults: the model's)";
  command->add_option("--temperature", flags->temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 100.0))->group(group);
  command->add_option("--top-p", flags->top_p, "smallest set of tokens with this probability")->group(group);
  command->add_option("--top-k", flags->top_k, "the k most likely tokens")->group(group);
  command->add_option("--min-p", flags->min_p, "tokens at least this likely, relative to the best")->group(group);
  command->add_option("--repetition-penalty", flags->repetition_penalty, "above 1: avoid repeating")->group(group);
  command->add_option("--seed", flags->seed, "the same seed gives the same text")->group(group);
  command->add_option("-n,--max-tokens", flags->max_tokens, "longest answer")->check(CLI::NonNegativeNumber)->group(group);
  command->add_option("--stop", flags->stop, "end the answer at this text; may be given several times")->group(group);
  add_load_flags(*command, flags->load);
  add_engine_flags(*command, flags->engine);
  command->callback([flags] {
    if (flags->model.empty()) flags->model = builtin_model_path();
    run(*flags);
  });
}

}  // namespace sluice::cli
