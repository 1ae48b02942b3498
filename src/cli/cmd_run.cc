// sluice run: a model at the terminal. One prompt, a pipe, or a chat with history when interactive.
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/graph_load.h"
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

// Ctrl-C comes to the main thread, the only one that has it unblocked, and wakes it from reading.
class Interrupts {
 public:
  // Before any other thread is made: they inherit what is blocked.
  Interrupts() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  // After all of them are.
  void begin() {
    struct sigaction action {};
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, nullptr);  // no SA_RESTART
    pthread_sigmask(SIG_UNBLOCK, &set_, nullptr);
  }

 private:
  sigset_t set_;
};

// Lets the main thread look at Ctrl-C while it waits for tokens.
class Bell {
 public:
  void ring() {
    std::lock_guard lock(mutex_);
    has_rung_ = true;
    rung_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    rung_.wait_for(lock, std::chrono::milliseconds(50), [this] { return has_rung_; });
    has_rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable rung_;
  bool has_rung_ = false;
};

const char kHelp[] =
    "  /clear            forget the conversation\n"
    "  /system TEXT      set the system message and start anew\n"
    "  /set NAME VALUE   temperature, top_p, top_k, min_p, repetition_penalty, max_tokens or seed\n"
    "  /set NAME         back to the model's own\n"
    "  /set              show what is set\n"
    "  /?                this\n"
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
      forget_what_does_not_fit();
      request.prompt = to_prompt();
      request.prompt_param = "messages";
      request.add_special_tokens = false;  // the template writes them
    }
    request.temperature = flags_.temperature;
    request.top_p = flags_.top_p;
    request.min_p = flags_.min_p;
    request.top_k = flags_.top_k;
    request.repetition_penalty = flags_.repetition_penalty;
    request.max_tokens = flags_.max_tokens;
    request.lowers_max_tokens = true;
    request.sampling.seed = flags_.seed;
    request.stop = flags_.stop;
    std::string answer;
    g_interrupts = 0;
    auto bell = std::make_shared<Bell>();
    auto generation = model_.generate(std::move(request), [bell] { bell->ring(); });
    if (raw()) std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    while (!generation->done() && g_interrupts == 0) {
      std::vector<serve::Chunk> chunks = generation->take();
      for (const serve::Chunk& chunk : chunks) {
        if (chunk.error) throw *chunk.error;
        std::fwrite(chunk.text.data(), 1, chunk.text.size(), stdout);
        answer += chunk.text;
      }
      std::fflush(stdout);
      if (chunks.empty()) bell->wait();
    }
    if (!generation->done()) generation->cancel();
    g_interrupts = 0;
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
  serve::ChatPrompt to_prompt() const {
    serve::ChatPrompt chat;
    chat.messages = messages_;
    return chat;
  }

  // The oldest exchanges go when the conversation leaves no room for an answer.
  void forget_what_does_not_fit() {
    int64_t longest = model_.info().max_model_len;
    int64_t room = std::min(longest / 4, flags_.max_tokens.value_or(512));
    bool has_forgotten = false;
    for (;;) {
      size_t first = messages_.front().at("role") == "system" ? 1 : 0;
      if (messages_.size() <= first + 1) break;
      int64_t tokens = static_cast<int64_t>(model_.tokenize(to_prompt(), false, false).tokens.size());
      if (tokens + room <= longest) break;
      do {
        messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(first));
      } while (messages_.size() > first + 1 && messages_[first].at("role") != "user");
      has_forgotten = true;
    }
    if (has_forgotten) std::fprintf(stderr, "(the oldest messages no longer fit and are forgotten)\n");
  }

  serve::LlmModel& model_;
  Flags& flags_;
  json::array messages_;
};

// What /set may change.
struct Parameter {
  const char* name;
  double low, high;
  std::optional<double> (*get)(const Flags&);
  void (*set)(Flags&, std::optional<double>);
};

template <auto kMember>
constexpr Parameter parameter(const char* name, double low, double high) {
  using Optional = std::remove_reference_t<decltype(std::declval<Flags&>().*kMember)>;
  return {name, low, high,
          [](const Flags& flags) -> std::optional<double> {
            if (!(flags.*kMember)) return std::nullopt;
            return static_cast<double>(*(flags.*kMember));
          },
          [](Flags& flags, std::optional<double> value) {
            if (value) flags.*kMember = static_cast<typename Optional::value_type>(*value);
            else (flags.*kMember).reset();
          }};
}

constexpr Parameter kParameters[] = {
    parameter<&Flags::temperature>("temperature", 0, 100),
    parameter<&Flags::top_p>("top_p", 1e-9, 1),
    parameter<&Flags::top_k>("top_k", -1, 1e6),
    parameter<&Flags::min_p>("min_p", 0, 1),
    parameter<&Flags::repetition_penalty>("repetition_penalty", 1e-3, 1e3),
    parameter<&Flags::max_tokens>("max_tokens", 1, 1e9),
    parameter<&Flags::seed>("seed", 0, 9e15),
};

void show_parameters(const Flags& flags) {
  for (const Parameter& parameter : kParameters) {
    std::optional<double> value = parameter.get(flags);
    std::printf("  %-18s %s\n", parameter.name, value ? fmt::format("{:g}", *value).c_str() : "(the model's)");
  }
}

void set_parameter(Flags& flags, const std::string& name, const std::string& value) {
  for (const Parameter& parameter : kParameters) {
    if (name != parameter.name) continue;
    if (value.empty()) return parameter.set(flags, std::nullopt);
    char* end = nullptr;
    double number = std::strtod(value.c_str(), &end);
    if (*end != '\0') fail(Code::kInvalidArgument, "'{}' is not a number", value);
    if (!(number >= parameter.low && number <= parameter.high)) {
      fail(Code::kInvalidArgument, "{} must be in [{:g}, {:g}]", name, parameter.low, parameter.high);
    }
    return parameter.set(flags, number);
  }
  fail(Code::kInvalidArgument, "there is no parameter '{}'; /? lists them", name);
}

// A line of standard input, without its end; nullopt at the end of input, and (then `interrupted`) at Ctrl-C.
std::optional<std::string> read_line(const char* prompt, bool& interrupted) {
  std::printf("%s", prompt);
  std::fflush(stdout);
  char* line = nullptr;
  size_t capacity = 0;
  errno = 0;
  ssize_t length = ::getline(&line, &capacity, stdin);
  interrupted = length < 0 && errno == EINTR;
  std::optional<std::string> text;
  if (length >= 0) text = std::string(line, static_cast<size_t>(length));
  std::free(line);
  if (text && text->ends_with('\n')) text->pop_back();
  return text;
}

// One message, which """ may spread over several lines; nullopt at the end of input. Ctrl-C gives up the message, and
// said twice in a row leaves.
std::optional<std::string> read_message() {
  const std::string fence = "\"\"\"";
  bool interrupted = false;
  for (;;) {
    std::optional<std::string> text = read_line(">>> ", interrupted);
    if (text && text->starts_with(fence)) {
      text->erase(0, fence.size());
      while (text && text->find(fence) == std::string::npos) {
        std::optional<std::string> more = read_line("... ", interrupted);
        text = more ? std::optional(*text + (text->empty() ? "" : "\n") + *more) : std::nullopt;
      }
      if (text) text->resize(text->find(fence));
    }
    if (text) {
      g_interrupts = 0;
      return text;
    }
    if (!interrupted) return std::nullopt;
    std::clearerr(stdin);
    std::printf("\n(Ctrl-C again, Ctrl-D or /bye to leave)\n");
  }
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
    if (rest.empty()) show_parameters(flags);
    else set_parameter(flags, rest.substr(0, space), space == std::string::npos ? "" : rest.substr(space + 1));
  } else {
    if (command != "/?" && command != "/help") std::printf("There is no command %s.\n", command.c_str());
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
  Interrupts interrupts;
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
  interrupts.begin();
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
  command->add_option("--top-p", flags->top_p, "draw from the most likely tokens that have this much probability")
      ->check(CLI::Range(1e-9, 1.0))->group(group);
  command->add_option("--top-k", flags->top_k, "draw from so many of the most likely tokens; 0: all")
      ->check(CLI::Range(-1, 1'000'000))->group(group);
  command->add_option("--min-p", flags->min_p, "draw from tokens at least this likely, relative to the best")
      ->check(CLI::Range(0.0, 1.0))->group(group);
  command->add_option("--repetition-penalty", flags->repetition_penalty, "above 1: avoid repeating")
      ->check(CLI::Range(1e-3, 1e3))->group(group);
  command->add_option("--seed", flags->seed, "the same seed gives the same text")->group(group);
  command->add_option("-n,--max-tokens", flags->max_tokens, "tokens of an answer at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))->group(group);
  command->add_option("--stop", flags->stop, "end the answer at this text; may be given several times")
      ->check(is_not_empty)->allow_extra_args(false)->group(group);
  add_load_flags(*command, flags->load);
  add_engine_flags(*command, flags->engine, EngineFlagSet::kFew);
  command->callback([flags] {
    if (flags->model.empty()) flags->model = builtin_model_path();
    refuse_graph(flags->model, "run");
    run(*flags);
  });
}

}  // namespace sluice::cli
