// The options of `sluice bench` and its modes: which there are, what they may be, and which mean nothing together. An
// option that would change nothing is an error that says so, so that nobody takes a figure for what it is not.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>

#include "cli/flags.h"
#include "engine/load.h"

namespace sluice::cli {

constexpr int64_t kBenchTokensMax = 1 << 24;     // of a prompt or an answer
constexpr int64_t kBenchSequencesMax = 1 << 16;  // together
constexpr int64_t kBenchRequestsMax = 10'000'000;

// CLI11 checks that say what the value is and what is allowed: "'-5' is not a whole number from 0 to 16777216".
CLI::Validator whole_number(int64_t low, int64_t high);
CLI::Validator number(double low, double high);

// The model, how it is loaded and the engine it runs in. Without what only a server has a use for: chat templates,
// sampling defaults, queues, priorities.
enum class PrefixCache { kOff, kOptional };
void add_bench_model_options(CLI::App& command, std::string& model, engine::LoadOptions& load, EngineFlags& engine,
                             PrefixCache cache);

bool is_given(const CLI::App& command, const std::string& option);
// Throws UsageError "A VALUE means nothing with B: why" if A was given.
void reject_with(const CLI::App& command, const std::string& option, const std::string& other, const std::string& why);

// All of a batch run in each step: raises --max-num-seqs, or throws UsageError if it was given and is less.
void make_room_for_batch(const CLI::App& command, EngineFlags& engine, int64_t batch, const std::string& batch_option);

// Options of `sluice bench` itself say nothing to its modes: throws UsageError if one was given.
void reject_grid_options(const CLI::App& mode);
// Throws UsageError if `model` is no file or folder but a word, perhaps a mode with a slip in it.
void reject_unknown_mode(const std::string& model);

}  // namespace sluice::cli
