// A seeded simulator of the scheduler and the page accounting: random arrivals, cancels, forks,
// priorities, prompts with common beginnings, logprobs of prompts, and too few pages. Its fake
// model keeps its "keys and values" in pages as a real one would, and derives each next token from
// all it reads there. So a wrong page table, a missed copy on write or a wrong hit in the prefix
// cache changes what a sequence says, and every sequence is compared with a computation that knows
// no pages.
//
//   engine_test --gtest_filter='SchedulerSim.*' --gtest_random_seed=123
//
// repeats one seed (1..99999); without it, a few hundred run.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <tuple>

#include "base/random.h"
#include "engine/scheduler.h"

namespace sluice::engine {
namespace {

constexpr int32_t kVocabulary = 50;
constexpr int32_t kEndToken = 7;

uint64_t extend_history(uint64_t history, int32_t token, int64_t position) {
  uint64_t x = history ^ (static_cast<uint64_t>(token) * 0x9e3779b97f4a7c15ull +
                          static_cast<uint64_t>(position));
  x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9ull;
  return x ^ (x >> 29);
}

int32_t next_token(uint64_t history, uint64_t seed, int index, int64_t draw) {
  return static_cast<int32_t>(
      philox(history, seed + static_cast<uint64_t>(index) * 1000, static_cast<uint64_t>(draw))[0] %
      kVocabulary);
}

// Memory of one token: what was there, for whom (adapter or salt) and where. A page copied or
// shared wrongly shows.
struct Cell {
  int32_t token = -1;
  int64_t position = -1;
};

class FakeModel {
 public:
  explicit FakeModel(int64_t num_pages) : cells_(static_cast<size_t>(num_pages * kTokensPerPage)) {}

  // The history behind each row of logits.
  std::vector<uint64_t> forward(const llm::Batch& batch) {
    for (const llm::PageCopy& copy : batch.page_copies) {
      for (int64_t i = 0; i < kTokensPerPage; ++i)
        cells_[at(copy.to, i)] = cells_[at(copy.from, i)];
    }
    for (const llm::BatchSequence& part : batch.sequences) {
      for (int64_t i = 0; i < part.num_tokens; ++i) {
        int64_t position = part.first_position + i;
        cells_[at(part.pages[position / kTokensPerPage], position % kTokensPerPage)] = {
            batch.tokens[static_cast<size_t>(part.first_token + i)], position};
      }
    }
    std::vector<uint64_t> rows;
    size_t row = 0;
    for (const llm::BatchSequence& part : batch.sequences) {
      uint64_t history = 0;
      for (int64_t position = 0; position < part.first_position + part.num_tokens; ++position) {
        const Cell& cell =
            cells_[at(part.pages[position / kTokensPerPage], position % kTokensPerPage)];
        history = extend_history(history, cell.token, cell.position);
        int64_t token_index = part.first_token + position - part.first_position;
        if (row < batch.logit_tokens.size() && batch.logit_tokens[row] == token_index) {
          rows.push_back(history);
          ++row;
        }
      }
    }
    EXPECT_EQ(rows.size(), batch.logit_tokens.size());
    return rows;
  }

 private:
  static size_t at(int32_t page, int64_t offset) {
    return static_cast<size_t>(page * kTokensPerPage + offset);
  }
  std::vector<Cell> cells_;
};

// What a request should say, told without pages.
struct Expected {
  std::vector<int32_t> tokens;
  FinishReason reason = FinishReason::kNone;
};

Expected expect(const std::vector<int32_t>& prompt, const SamplingParams& sampling, uint64_t seed,
                int index, int64_t max_model_len) {
  Expected expected;
  uint64_t history = 0;
  int64_t position = 0;
  for (int32_t token : prompt) history = extend_history(history, token, position++);
  for (int64_t draw = 0; expected.reason == FinishReason::kNone; ++draw) {
    if (draw >= sampling.max_tokens) {
      expected.reason = FinishReason::kLength;
      break;
    }
    int32_t token = next_token(history, seed, index, draw);
    expected.tokens.push_back(token);
    bool may_stop = draw >= sampling.min_tokens;
    if (may_stop && token == kEndToken && !sampling.ignore_eos) {
      expected.reason = FinishReason::kStop;
    } else if (draw + 1 >= sampling.max_tokens || position + 1 >= max_model_len) {
      expected.reason = FinishReason::kLength;
    }
    history = extend_history(history, token, position++);
  }
  return expected;
}

struct Tally {
  int64_t steps = 0, requests = 0, cancelled = 0, preemptions = 0, hits = 0, copies = 0,
          out_of_pages = 0, tokens = 0;
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed, 77), model_(0) {
    num_pages_ = 4 + static_cast<int64_t>(random_.below(40));
    options_.max_num_batched_tokens = 4 + static_cast<int64_t>(random_.below(60));
    options_.max_num_seqs = 1 + static_cast<int64_t>(random_.below(static_cast<uint64_t>(
                                    std::min<int64_t>(12, options_.max_num_batched_tokens))));
    // Mostly what a full-length sequence fits into, at times more than there is memory for.
    int64_t capacity = num_pages_ * kTokensPerPage;
    options_.max_model_len =
        random_.below(8) == 0
            ? capacity + 40
            : std::max<int64_t>(8, capacity / static_cast<int64_t>(1 + random_.below(4)));
    options_.long_prefill_token_threshold =
        random_.below(2) ? 0 : 1 + static_cast<int64_t>(random_.below(30));
    options_.max_prompt_logit_rows = 1 + static_cast<int64_t>(random_.below(40));
    options_.policy = random_.below(3) == 0 ? SchedulingPolicy::kPriority : SchedulingPolicy::kFcfs;
    options_.end_tokens = {kEndToken};
    BlockManagerOptions pages{.num_pages = num_pages_,
                              .enable_prefix_caching = random_.below(4) != 0};
    if (random_.below(3) == 0) pages.hash_mask = 3;
    scheduler_ = std::make_unique<Scheduler>(options_, pages);
    model_ = FakeModel(num_pages_);
    for (std::vector<int32_t>& beginning : beginnings_)
      beginning = random_tokens(random_.below(70));
    for (std::vector<int32_t>& piece : pieces_) piece = random_tokens(kTokensPerPage);
    num_to_arrive_ = 5 + static_cast<int64_t>(random_.below(30));
    interleave_ = random_.below(2) == 0;
  }

  void run(Tally& tally) {
    int64_t num_steps_max = 0;  // what all the work takes if one sequence at a time had the machine
                                // to itself, and recomputed
    while (num_to_arrive_ > 0 || !scheduler_->is_idle()) {
      while (num_to_arrive_ > 0 && (scheduler_->is_idle() || random_.below(3) == 0))
        num_steps_max += arrive(tally);
      if (!scheduler_->is_idle() && random_.below(25) == 0) cancel(tally);
      scheduler_->check_integrity();
      if (!scheduler_->is_idle()) step(tally);
      scheduler_->check_integrity();
      ASSERT_FALSE(::testing::Test::HasFailure());
      ASSERT_LE(num_steps_, num_steps_max) << "somebody starves";
    }
    EXPECT_EQ(scheduler_->pages().num_free(), num_pages_);
    tally.steps += num_steps_;
    tally.preemptions += scheduler_->stats().num_preemptions;
    tally.hits += scheduler_->stats().prefix_cache_hits;
  }

 private:
  struct Live {
    std::vector<int32_t> prompt;
    std::vector<int> last_seen_generated;
    int num_left = 0;
  };

  std::vector<int32_t> random_tokens(uint64_t count) {
    std::vector<int32_t> tokens;
    for (uint64_t i = 0; i < count; ++i)
      tokens.push_back(static_cast<int32_t>(random_.below(kVocabulary)));
    return tokens;
  }

  // Returns a generous bound of the steps it may take.
  int64_t arrive(Tally& tally) {
    --num_to_arrive_;
    ++tally.requests;
    Request request;
    request.id = "r" + std::to_string(++num_arrived_);
    if (random_.below(3) != 0) request.prompt = beginnings_[random_.below(3)];
    std::vector<int32_t> rest =
        random_tokens(random_.below(2) ? random_.below(4) : random_.below(120));
    request.prompt.insert(request.prompt.end(), rest.begin(), rest.end());
    if (random_.below(4) == 0) {  // equal pages after different beginnings
      request.prompt.clear();
      for (uint64_t i = 0, count = 1 + random_.below(5); i < count; ++i) {
        const std::vector<int32_t>& piece = pieces_[random_.below(3)];
        request.prompt.insert(request.prompt.end(), piece.begin(), piece.end());
      }
    }
    if (request.prompt.empty()) request.prompt.push_back(1);
    if (static_cast<int64_t>(request.prompt.size()) > options_.max_model_len)
      request.prompt.resize(static_cast<size_t>(options_.max_model_len));
    request.sampling.max_tokens =
        static_cast<int64_t>(random_.below(8) == 0 ? 0 : 1 + random_.below(60));
    request.sampling.min_tokens =
        random_.below(3) == 0 ? static_cast<int64_t>(random_.below(10)) : 0;
    request.sampling.ignore_eos = random_.below(3) == 0;
    if (random_.below(5) == 0) request.sampling.num_prompt_logprobs = 0;
    request.num_sequences = random_.below(3) == 0 ? 1 + static_cast<int>(random_.below(5)) : 1;
    request.priority = static_cast<int64_t>(random_.below(3));
    Live live{.prompt = request.prompt};
    live.num_left = request.num_sequences;
    int64_t bound = request.num_sequences *
                    (request.sampling.max_tokens + static_cast<int64_t>(request.prompt.size()) + 8);
    // A salt must keep apart, and cannot change what is said: the fake model knows nothing of it.
    // An adapter neither.
    if (random_.below(4) == 0) request.cache_salt = random_.below(2) ? "a" : "b";
    lives_[request.id] = std::move(live);
    std::unique_ptr<RequestState> state = make_request_state(std::move(request), random_.next());
    scheduler_->add(std::move(state));
    return bound * 4;
  }

  void cancel(Tally& tally) {
    auto position = lives_.begin();
    std::advance(position, static_cast<int64_t>(random_.below(lives_.size())));
    RequestState* request = scheduler_->find(position->first);
    ASSERT_NE(request, nullptr);
    if (random_.below(2) == 0 &&
        request->sequences.size() > 1) {  // a stop string in one of its sequences
      size_t index = random_.below(request->sequences.size());
      if (request->sequences[index]->state == SequenceState::kFinished) return;
      scheduler_->finish(*request->sequences[index], FinishReason::kStop);
      if (request->num_unfinished > 0) return;
    } else {
      scheduler_->finish_all(*request, FinishReason::kAbort);
    }
    ++tally.cancelled;
    scheduler_->remove(*request);
    lives_.erase(position);
  }

  void step(Tally& tally) {
    ++num_steps_;
    const Sequence* first = find_first_running();
    int64_t prefill_limit = interleave_ ? 1 + static_cast<int64_t>(random_.below(20)) : INT64_MAX;
    const Plan& plan = scheduler_->step(num_steps_ * 1000, prefill_limit);
    ASSERT_FALSE(plan.is_empty()) << "live requests, and nothing to do";
    ASSERT_LE(static_cast<int64_t>(plan.batch.tokens.size()), options_.max_num_batched_tokens);
    ASSERT_LE(static_cast<int64_t>(plan.prompt_logits.size()), options_.max_prompt_logit_rows);
    check_batch(plan);
    if (first != nullptr && first->state == SequenceState::kRunning) {
      ASSERT_EQ(plan.scheduled.front().sequence, first)
          << "the first in line makes progress in every step";
    }
    tally.copies += static_cast<int64_t>(plan.batch.page_copies.size());
    tally.tokens += static_cast<int64_t>(plan.batch.tokens.size());
    std::vector<uint64_t> rows = model_.forward(plan.batch);
    for (const PromptLogits& prompt : plan.prompt_logits) check_prompt_logits(prompt, rows);
    std::vector<int32_t> sampled;
    for (const Sample& sample : plan.samples) {
      const Sequence& sequence = *sample.sequence;
      sampled.push_back(next_token(rows[static_cast<size_t>(sample.logit_row)],
                                   sequence.request->seed, sequence.index,
                                   sequence.num_generated()));
    }
    scheduler_->commit(sampled);
    std::vector<RequestState*> over;
    auto look = [&](Sequence* sequence, bool is_out_of_pages) {
      RequestState* request = sequence->request;
      for (const std::unique_ptr<Sequence>& each : request->sequences) {
        if (each->state != SequenceState::kFinished || each->is_reported) continue;
        each->is_reported = true;
        check_finished(*each, is_out_of_pages);
      }
      if (request->num_unfinished == 0 &&
          std::find(over.begin(), over.end(), request) == over.end())
        over.push_back(request);
    };
    for (Sequence* sequence : plan.ended) {
      ++tally.out_of_pages;
      look(sequence, true);
    }
    for (const ScheduledSequence& part : plan.scheduled) look(part.sequence, false);
    for (const Sample& sample : plan.samples) look(sample.sequence, false);
    for (RequestState* request : over) {
      lives_.erase(request->request.id);
      scheduler_->remove(*request);
    }
  }

  const Sequence* find_first_running() {
    const Sequence* first = nullptr;
    auto key = [&](const Sequence* sequence) {
      const RequestState& request = *sequence->request;
      int64_t priority =
          options_.policy == SchedulingPolicy::kPriority ? request.request.priority : 0;
      return std::tuple(priority, request.arrival_index, sequence->index);
    };
    for (RequestState* request : scheduler_->requests()) {
      for (const std::unique_ptr<Sequence>& each : request->sequences) {
        if (each->state == SequenceState::kRunning &&
            (first == nullptr || key(each.get()) < key(first)))
          first = each.get();
      }
    }
    return first;
  }

  void check_batch(const Plan& plan) {
    ASSERT_EQ(plan.batch.sequences.size(), plan.scheduled.size());
    int64_t next = 0;
    for (size_t i = 0; i < plan.scheduled.size(); ++i) {
      const llm::BatchSequence& part = plan.batch.sequences[i];
      ASSERT_EQ(part.first_token, next);
      ASSERT_GE(part.num_tokens, 1);
      ASSERT_EQ(part.first_position, plan.scheduled[i].sequence->num_computed);
      ASSERT_GE(static_cast<int64_t>(plan.scheduled[i].sequence->table.pages.size()),
                count_pages(part.first_position + part.num_tokens));
      next += part.num_tokens;
    }
    ASSERT_EQ(next, static_cast<int64_t>(plan.batch.tokens.size()));
    ASSERT_TRUE(std::is_sorted(plan.batch.logit_tokens.begin(), plan.batch.logit_tokens.end()));
  }

  void check_prompt_logits(const PromptLogits& prompt, const std::vector<uint64_t>& rows) {
    uint64_t history = 0;
    for (int64_t i = 0; i < prompt.position; ++i)
      history = extend_history(history, prompt.sequence->tokens[static_cast<size_t>(i)], i);
    EXPECT_EQ(rows[static_cast<size_t>(prompt.logit_row)], history)
        << prompt.sequence->request->request.id;
    std::vector<PositionLogprobs>& all = prompt.sequence->request->prompt_logprobs;
    if (all.empty()) all.resize(1);
    EXPECT_EQ(static_cast<int64_t>(all.size()), prompt.position);
    all.push_back({});
  }

  void check_finished(const Sequence& sequence, bool is_out_of_pages) {
    const RequestState& request = *sequence.request;
    if (sequence.finish_reason == FinishReason::kStop && !sequence.stopped_by_end_token)
      return;  // a stop string
    Expected expected = expect(lives_.at(request.request.id).prompt, request.sampling(),
                               request.seed, sequence.index, options_.max_model_len);
    if (sequence.tokens.empty()) {  // never came to be: nothing was to be generated, or no memory
                                    // for the prompt
      EXPECT_TRUE(is_out_of_pages || request.sampling().max_tokens == 0);
      return;
    }
    std::vector<int32_t> generated(sequence.tokens.begin() + sequence.num_prompt_tokens,
                                   sequence.tokens.end());
    EXPECT_EQ(sequence.finish_reason, is_out_of_pages ? FinishReason::kLength : expected.reason)
        << request.request.id;
    if (is_out_of_pages) {
      ASSERT_LE(generated.size(), expected.tokens.size());
      expected.tokens.resize(generated.size());
    }
    EXPECT_EQ(generated, expected.tokens) << request.request.id << " sequence " << sequence.index;
    if (sequence.index == 0 && request.wants_prompt_logprobs() && !is_out_of_pages) {
      EXPECT_EQ(request.num_prompt_logprobs_left(), 0);
    }
  }

  Random random_;
  SchedulerOptions options_;
  int64_t num_pages_ = 0;
  std::unique_ptr<Scheduler> scheduler_;
  FakeModel model_;
  std::vector<int32_t> beginnings_[3], pieces_[3];
  std::map<std::string, Live> lives_;
  int64_t num_to_arrive_ = 0, num_arrived_ = 0, num_steps_ = 0;
  bool interleave_ = false;
};

TEST(SchedulerSim, EverySequenceSaysWhatItShould) {
  int32_t chosen = GTEST_FLAG_GET(random_seed);
  Tally tally;
  uint64_t first = chosen > 0 ? static_cast<uint64_t>(chosen) : 1, last = chosen > 0 ? first : 500;
  for (uint64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE("repeat with --gtest_random_seed=" + std::to_string(seed));
    Simulation(seed).run(tally);
    if (HasFailure()) break;
  }
  std::printf(
      "seeds %llu..%llu: %lld requests, %lld steps, %lld tokens, %lld cancelled, %lld preemptions, "
      "%lld tokens from the "
      "prefix cache, %lld pages copied, %lld out of pages\n",
      static_cast<unsigned long long>(first), static_cast<unsigned long long>(last),
      static_cast<long long>(tally.requests), static_cast<long long>(tally.steps),
      static_cast<long long>(tally.tokens), static_cast<long long>(tally.cancelled),
      static_cast<long long>(tally.preemptions), static_cast<long long>(tally.hits),
      static_cast<long long>(tally.copies), static_cast<long long>(tally.out_of_pages));
  if (chosen == 0) {  // the dice did reach every path
    EXPECT_GT(tally.preemptions, 100);
    EXPECT_GT(tally.hits, 1000);
    EXPECT_GT(tally.copies, 100);
    EXPECT_GT(tally.out_of_pages, 5);
    EXPECT_GT(tally.cancelled, 100);
  }
}

}  // namespace
}  // namespace sluice::engine
