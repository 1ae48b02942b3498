// Runs a fuzz target without libFuzzer: mutates seeds for a number of iterations or seconds.
//
//   fuzz_gguf [--iterations N | --seconds S] [--seed N] [--max-bytes N] [--artifacts DIR]
//   [SEED_FILE_OR_FOLDER...] fuzz_gguf --replay FILE...
//
// The inputs are a pure function of --seed, the seeds and the iteration's number, so a run can be repeated;
// --seconds only decides when it stops. Without coverage feedback an accepted input takes the place of one of
// the pool, so that mutations pile up. On a crash, a foreign exception or a hang the input is written to
// DIR/crash-TARGET-SEED-ITERATION and its path is printed; --replay runs such a file again.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <typeinfo>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "fuzz/fuzz.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLUICE_SANITIZED 1
extern "C" void __sanitizer_set_death_callback(void (*callback)());
#else
#define SLUICE_SANITIZED 0
#endif

namespace sluice::fuzz {
namespace {

constexpr unsigned kHangSeconds = 20;
constexpr size_t kMaxPool = 512;
constexpr rlim_t kMaxMemory = rlim_t{4} << 30;  // an input that asks for more is a finding

// What the signal handler needs; it may not allocate.
struct Current {
  const uint8_t* data = nullptr;
  size_t size = 0;
  char path[512] = "";
};
Current g_current;

void write_current() {
  if (g_current.data == nullptr) return;
  int fd = open(g_current.path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) return;
  size_t done = 0;
  while (done < g_current.size) {
    ssize_t wrote = write(fd, g_current.data + done, g_current.size - done);
    if (wrote <= 0) break;
    done += static_cast<size_t>(wrote);
  }
  close(fd);
  const char* parts[] = {"the input was written to ", g_current.path, "; repeat with --replay\n"};
  for (const char* part : parts) {
    if (write(STDERR_FILENO, part, std::strlen(part)) < 0) return;
  }
  g_current.data = nullptr;
}

void on_signal(int number) {
  const char* what = number == SIGALRM ? "\nfuzz: the input takes too long\n" : "\nfuzz: crash\n";
  if (write(STDERR_FILENO, what, std::strlen(what)) < 0) _exit(3);
  write_current();
  if (number == SIGALRM) _exit(3);
  signal(number, SIG_DFL);
  raise(number);
}

struct Options {
  uint64_t iterations = UINT64_MAX;
  double seconds = 5.0;
  bool has_limit = false;
  uint64_t seed = 1;
  size_t max_bytes = 16384;
  std::string artifacts = ".";
  bool replay = false;
  std::vector<std::string> paths;
};

[[noreturn]] void usage(const char* program) {
  std::fprintf(
      stderr,
      "usage: %s [--iterations N | --seconds S] [--seed N] [--max-bytes N] [--artifacts DIR] [SEEDS...]\n"
      "       %s --replay FILE...\n",
      program, program);
  std::exit(2);
}

Options parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string flag = argv[i];
    auto next = [&]() -> const char* { return ++i < argc ? argv[i] : (usage(argv[0]), nullptr); };
    if (flag == "--iterations") {
      options.iterations = std::strtoull(next(), nullptr, 10);
      if (!options.has_limit) options.seconds = 1e9;
      options.has_limit = true;
    } else if (flag == "--seconds") {
      options.seconds = std::strtod(next(), nullptr);
      options.has_limit = true;
    } else if (flag == "--seed") {
      options.seed = std::strtoull(next(), nullptr, 10);
    } else if (flag == "--max-bytes") {
      options.max_bytes = std::strtoull(next(), nullptr, 10);
    } else if (flag == "--artifacts") {
      options.artifacts = next();
    } else if (flag == "--replay") {
      options.replay = true;
    } else if (flag.rfind("--", 0) == 0) {
      usage(argv[0]);
    } else {
      options.paths.push_back(flag);
    }
  }
  return options;
}

std::string read_whole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// Files as they are, folders' files in the order of their names.
std::vector<std::string> read_seeds(const std::vector<std::string>& paths) {
  std::vector<std::string> files, seeds;
  for (const std::string& path : paths) {
    if (std::filesystem::is_directory(path)) {
      for (const auto& entry : std::filesystem::directory_iterator(path)) {
        if (entry.is_regular_file()) files.push_back(entry.path().string());
      }
    } else if (std::filesystem::exists(path)) {
      files.push_back(path);
    } else {
      std::fprintf(stderr, "fuzz: no such seed: %s\n", path.c_str());
      std::exit(2);
    }
  }
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) seeds.push_back(read_whole(file));
  return seeds;
}

class Mutator {
 public:
  Mutator(uint64_t seed, size_t max_bytes, std::vector<std::string> dictionary)
      : seed_(seed), max_bytes_(max_bytes), dictionary_(std::move(dictionary)) {}

  // The n-th input: a member of the pool, changed one to five times.
  std::string make(const std::vector<std::string>& pool, uint64_t iteration) const {
    Random random(seed_, iteration);
    std::string input = pool[random.below(pool.size())];
    const std::string& other = pool[random.below(pool.size())];
    for (uint64_t count = 1 + random.below(5); count > 0; --count) {
      if (random.below(3) == 0) {
        input = mutate_structure(input, random.next());
      } else {
        mutate_bytes(input, other, random);
      }
      if (input.size() > max_bytes_) input.resize(max_bytes_);
    }
    return input;
  }

 private:
  static uint64_t interesting(Random& random) {
    static constexpr uint64_t kValues[] = {0,
                                           1,
                                           2,
                                           3,
                                           4,
                                           7,
                                           8,
                                           16,
                                           31,
                                           32,
                                           33,
                                           64,
                                           127,
                                           128,
                                           255,
                                           256,
                                           1000,
                                           4096,
                                           32767,
                                           32768,
                                           65535,
                                           65536,
                                           0x7fffffff,
                                           0x80000000,
                                           0xffffffff,
                                           0x100000000,
                                           uint64_t{1} << 40,
                                           uint64_t{1} << 60,
                                           uint64_t{1} << 61,
                                           0x7fffffffffffffff,
                                           0x8000000000000000,
                                           0xffffffffffffffe0,
                                           0xfffffffffffffffe,
                                           0xffffffffffffffff};
    return kValues[random.below(std::size(kValues))];
  }

  // [begin, end) of a random piece.
  static std::pair<size_t, size_t> piece(const std::string& text, Random& random) {
    if (text.empty()) return {0, 0};
    size_t begin = random.below(text.size());
    size_t limit = random.below(4) == 0 ? text.size() - begin : std::min<size_t>(text.size() - begin, 16);
    return {begin, begin + random.below(limit) + 1};
  }

  void mutate_bytes(std::string& input, const std::string& other, Random& random) const {
    size_t at = input.empty() ? 0 : random.below(input.size());
    auto [begin, end] = piece(input, random);
    switch (random.below(11)) {
      case 0:
        if (!input.empty()) input[at] = static_cast<char>(input[at] ^ (1 << random.below(8)));
        break;
      case 1:
        if (!input.empty()) input[at] = static_cast<char>(random.below(256));
        break;
      case 2: {
        uint64_t value = interesting(random);
        size_t width = size_t{1} << random.below(4);
        if (at + width <= input.size()) std::memcpy(input.data() + at, &value, width);
        break;
      }
      case 3: input.resize(at); break;
      case 4: input.erase(begin, end - begin); break;
      case 5: input.insert(at, input.substr(begin, end - begin)); break;
      case 6: {
        auto [other_begin, other_end] = piece(other, random);
        input.insert(at, other, other_begin, other_end - other_begin);
        break;
      }
      case 7:  // the start of one, the end of another
        if (!other.empty()) input = input.substr(0, at) + other.substr(random.below(other.size()));
        break;
      case 8:
        for (uint64_t i = random.below(8) + 1; i > 0; --i) {
          input.insert(at, 1, static_cast<char>(random.below(256)));
        }
        break;
      case 9:
        if (!dictionary_.empty()) input.insert(at, dictionary_[random.below(dictionary_.size())]);
        break;
      case 10: replace_number(input, at, random); break;
    }
  }

  // The next decimal number becomes another.
  static void replace_number(std::string& input, size_t from, Random& random) {
    static constexpr const char* kDigits = "0123456789";
    size_t begin = input.find_first_of(kDigits, from);
    if (begin == std::string::npos) return;
    size_t end = input.find_first_not_of(kDigits, begin);
    if (end == std::string::npos) end = input.size();
    uint64_t value = interesting(random);
    std::string text = random.below(4) == 0 ? "-" + std::to_string(value) : std::to_string(value);
    input.replace(begin, end - begin, text);
  }

  const uint64_t seed_;
  const size_t max_bytes_;
  const std::vector<std::string> dictionary_;
};

// True if the target accepted the input. Ends the program on anything that is not a plain yes or no.
bool run_one(const std::string& input) {
  // A copy of exactly its size, so that a sanitizer sees the first byte read too far.
  std::unique_ptr<uint8_t[]> copy(new uint8_t[input.size()]);
  std::memcpy(copy.get(), input.data(), input.size());
  g_current.data = copy.get();
  g_current.size = input.size();
  alarm(kHangSeconds);
  bool is_accepted = false;
  try {
    is_accepted = LLVMFuzzerTestOneInput(copy.get(), input.size()) == 0;
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "fuzz: %s escaped: %s\n", typeid(exception).name(), exception.what());
    write_current();
    std::exit(1);
  }
  g_current.data = nullptr;
  return is_accepted;
}

int replay(const Options& options) {
  for (const std::string& path : options.paths) {
    bool is_accepted = run_one(read_whole(path));
    std::printf("%s: %s\n", path.c_str(), is_accepted ? "accepted" : "refused");
  }
  return 0;
}

int run(const Options& options, const std::string& target) {
  std::vector<std::string> pool = make_seeds();
  for (std::string& seed : read_seeds(options.paths)) pool.push_back(std::move(seed));
  if (pool.empty()) pool.emplace_back();
  size_t num_seeds = pool.size();
  std::printf("%s: seed %llu, %zu seed inputs\n", target.c_str(),
              static_cast<unsigned long long>(options.seed), num_seeds);
  std::fflush(stdout);

  std::snprintf(g_current.path, sizeof g_current.path, "%s/crash-%s-seeds", options.artifacts.c_str(),
                target.c_str());
  size_t num_refused = 0;
  for (size_t i = 0; i < num_seeds; ++i) num_refused += run_one(pool[i]) ? 0 : 1;
  if (num_refused > 0) std::printf("%s: %zu seed inputs are refused as they are\n", target.c_str(), num_refused);
  Mutator mutator(options.seed, options.max_bytes, make_dictionary());
  int64_t end_us = monotonic_us() + static_cast<int64_t>(options.seconds * 1e6);
  uint64_t iteration = 0, num_accepted = 0;
  for (; iteration < options.iterations && monotonic_us() < end_us; ++iteration) {
    std::snprintf(g_current.path, sizeof g_current.path, "%s/crash-%s-%llu-%llu", options.artifacts.c_str(),
                  target.c_str(), static_cast<unsigned long long>(options.seed),
                  static_cast<unsigned long long>(iteration));
    std::string input = mutator.make(pool, iteration);
    if (!run_one(input)) continue;
    ++num_accepted;
    // The seeds stay: from them every part of the parser is near.
    if (pool.size() < kMaxPool) {
      pool.push_back(std::move(input));
    } else if (kMaxPool > num_seeds) {
      pool[num_seeds + Random(options.seed, iteration).below(kMaxPool - num_seeds)] = std::move(input);
    }
  }
  alarm(0);
  std::printf("%s: %llu inputs, %llu accepted, no finding\n", target.c_str(),
              static_cast<unsigned long long>(iteration), static_cast<unsigned long long>(num_accepted));
  return 0;
}

}  // namespace

std::vector<std::string> split_words(std::string_view text) {
  static constexpr std::string_view kDot = "\xC2\xB7";
  std::vector<std::string> words;
  std::string word;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i == text.size() || text[i] == ' ' || text[i] == '\n') {
      if (!word.empty()) words.push_back(std::move(word));
      word.clear();
    } else if (text.substr(i, kDot.size()) == kDot) {
      word += ' ';
      ++i;
    } else {
      word += text[i];
    }
  }
  return words;
}

}  // namespace sluice::fuzz

int main(int argc, char** argv) {
  using namespace sluice::fuzz;
  Options options = parse_options(argc, argv);
  // Stack overflows too are reported, so the handler runs on a stack of its own.
  static char handler_stack[1 << 16];
  stack_t stack{};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof handler_stack;
  sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  std::vector<int> signals = {SIGALRM, SIGABRT};
#if SLUICE_SANITIZED
  __sanitizer_set_death_callback(write_current);
#else
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) signals.push_back(number);
  rlimit limit{kMaxMemory, kMaxMemory};
  setrlimit(RLIMIT_AS, &limit);
#endif
  for (int number : signals) sigaction(number, &action, nullptr);
  std::string target = std::filesystem::path(argv[0]).filename().string();
  if (options.replay) {
    std::snprintf(g_current.path, sizeof g_current.path, "%s/crash-%s-replay", options.artifacts.c_str(),
                  target.c_str());
    return replay(options);
  }
  return run(options, target);
}
