#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <numeric>

namespace sluice::engine {
namespace {

constexpr int32_t kEnd = 2;

// Drives a scheduler by hand: every sampled token is `next`.
struct Driver {
  Driver(SchedulerOptions options, int64_t num_pages, bool caching = true)
      : scheduler(
            [&] {
              if (options.max_model_len == 0) options.max_model_len = num_pages * kTokensPerPage;
              options.end_tokens = {kEnd};
              return options;
            }(),
            {.num_pages = num_pages, .enable_prefix_caching = caching}) {}

  Sequence* add(const std::string& id, int64_t prompt_length, int64_t max_tokens = 100, int n = 1,
                int64_t priority = 0) {
    Request request;
    request.id = id;
    request.prompt.resize(static_cast<size_t>(prompt_length));
    std::iota(request.prompt.begin(), request.prompt.end(), ++num_prompts * 100000);
    return add(std::move(request), max_tokens, n, priority);
  }

  Sequence* add(Request request, int64_t max_tokens, int n, int64_t priority) {
    request.sampling.max_tokens = max_tokens;
    request.num_sequences = n;
    request.priority = priority;
    std::unique_ptr<RequestState> state = make_request_state(std::move(request), 1);
    Sequence* first = state->sequences.front().get();
    scheduler.add(std::move(state));
    return first;
  }

  // "a:5 b:1": whose tokens, in order, the step computed.
  std::string step(int32_t next = 9, int64_t prefill_limit = INT64_MAX) {
    const Plan& plan = scheduler.step(++now, prefill_limit);
    std::string text;
    for (const ScheduledSequence& part : plan.scheduled) {
      const Sequence& sequence = *part.sequence;
      text += (text.empty() ? "" : " ") + sequence.request->request.id +
              (sequence.index > 0 ? "/" + std::to_string(sequence.index) : "") + ":" +
              std::to_string(part.num_tokens);
    }
    scheduler.commit(std::vector<int32_t>(plan.samples.size(), next));
    for (RequestState* request : scheduler.requests()) {
      if (request->num_unfinished == 0) scheduler.remove(*request);
    }
    scheduler.check_integrity();
    return text;
  }

  Scheduler scheduler;
  int64_t now = 0;
  int32_t num_prompts = 0;
};

// What a server with the default limits meets when many ask at once.
TEST(Scheduler, ManyShortPromptsShareAStep) {
  Driver driver({}, 400);
  for (int i = 0; i < 16; ++i) driver.add("r" + std::to_string(i), 100, 64);
  std::string prompts, decodes;
  for (int i = 0; i < 16; ++i) {
    prompts += (i > 0 ? " r" : "r") + std::to_string(i) + ":100";
    decodes += (i > 0 ? " r" : "r") + std::to_string(i) + ":1";
  }
  EXPECT_EQ(driver.step(), prompts) << "1,600 tokens are within one step";
  for (int i = 1; i < 64; ++i) EXPECT_EQ(driver.step(), decodes) << "and all go on together";
  EXPECT_TRUE(driver.scheduler.is_idle());
  // With one that generates already, prompts come in as many as keep the step short.
  driver.add("a", 10, 64);
  EXPECT_EQ(driver.step(), "a:10");
  for (const char* id : {"b", "c", "d"}) driver.add(id, 100, 64);
  EXPECT_EQ(driver.step(9, 210), "a:1 b:100 c:100 d:10");
  EXPECT_EQ(driver.step(9, 210), "a:1 b:1 c:1 d:90");
}

TEST(Scheduler, RunningFirstThenWaitingWithinTheBudget) {
  Driver driver(
      {.max_num_batched_tokens = 20, .max_num_seqs = 4, .long_prefill_token_threshold = 100}, 64);
  driver.add("a", 12);
  driver.add("b", 30);
  driver.add("c", 5);
  EXPECT_EQ(driver.step(), "a:12 b:8");
  EXPECT_EQ(driver.step(), "a:1 b:19") << "tokens that are generated are set aside first";
  EXPECT_EQ(driver.step(), "a:1 b:3 c:5");
  EXPECT_EQ(driver.step(), "a:1 b:1 c:1");
}

TEST(Scheduler, LongPromptsStallNeitherTokensNorShortPrompts) {
  Driver driver({.max_num_batched_tokens = 64, .max_num_seqs = 8}, 1024);
  driver.add("a", 10);
  driver.step();
  driver.add("long1", 1000);
  driver.add("long2", 1000);
  driver.add("short", 20);
  EXPECT_EQ(driver.step(), "a:1 long1:32 short:20")
      << "long prompts share half of the budget, and are passed by";
  EXPECT_EQ(driver.step(), "a:1 long1:32 short:1");
  for (int i = 0; i < 28; ++i) driver.step();
  EXPECT_EQ(driver.step(), "a:1 long1:32 short:1");  // what is left is short enough to come at once
  EXPECT_EQ(driver.step(), "a:1 long1:8 short:1 long2:32");
}

TEST(Scheduler, PrefillLimitHoldsWhileOthersGenerate) {
  Driver driver(
      {.max_num_batched_tokens = 64, .max_num_seqs = 8, .long_prefill_token_threshold = 64}, 64);
  driver.add("a", 100);
  EXPECT_EQ(driver.step(9, 10), "a:64") << "nobody waits for tokens";
  EXPECT_EQ(driver.step(9, 10), "a:36");
  driver.add("b", 30);
  EXPECT_EQ(driver.step(9, 10), "a:1 b:10");
  EXPECT_EQ(driver.step(9, 0), "a:1 b:1") << "at least one";
}

TEST(Scheduler, SeatsAreLimited) {
  Driver driver({.max_num_batched_tokens = 100, .max_num_seqs = 2}, 64);
  for (const char* id : {"a", "b", "c"}) driver.add(id, 3, 2);
  EXPECT_EQ(driver.step(), "a:3 b:3");
  EXPECT_EQ(driver.step(), "a:1 b:1");  // both end here
  EXPECT_EQ(driver.step(), "c:3");
}

TEST(Scheduler, PreemptsTheLastAndTakesItBackFirst) {
  Driver driver({.max_num_batched_tokens = 200, .max_num_seqs = 8}, 6, /*caching=*/false);
  Sequence* a = driver.add("a", 30);
  driver.step();
  Sequence* b = driver.add("b", 31, 40);
  driver.step();
  driver.add("c", 16, 40);  // would take the last pages: not let in
  for (int i = 0; i < 17; ++i) driver.step();
  EXPECT_EQ(driver.scheduler.stats().num_preemptions, 0);
  EXPECT_EQ(a->table.pages.size() + b->table.pages.size(), 6u);
  driver.step();
  driver.step();
  EXPECT_EQ(driver.scheduler.stats().num_preemptions, 1);
  EXPECT_EQ(b->state, SequenceState::kWaiting);
  EXPECT_TRUE(b->table.pages.empty());
  EXPECT_GT(b->num_generated(), 15) << "its tokens are kept";
  int64_t generated = b->num_generated();
  while (a->state == SequenceState::kRunning && a->num_generated() < 60) driver.step();
  driver.scheduler.finish(*a, FinishReason::kAbort);
  EXPECT_EQ(driver.step(), "b:" + std::to_string(31 + generated) + " c:16")
      << "before later arrivals";
  EXPECT_EQ(driver.step(), "b:1 c:1");
}

TEST(Scheduler, PriorityOrdersWaitingAndVictims) {
  Driver driver(
      {.max_num_batched_tokens = 100, .max_num_seqs = 2, .policy = SchedulingPolicy::kPriority}, 6,
      false);
  driver.add("low", 40, 100, 1, 5);
  driver.add("high", 20, 100, 1, -1);
  driver.add("middle", 20, 3, 1, 0);
  EXPECT_EQ(driver.step(), "high:20 middle:20");
  driver.step();
  driver.step();
  EXPECT_EQ(driver.step(), "high:1 low:40");
  while (driver.scheduler.stats().num_preemptions == 0) driver.step();
  EXPECT_EQ(driver.step(), "high:1");
}

TEST(Scheduler, SequencesShareThePromptAndCopyOnWrite) {
  Driver driver({.max_num_batched_tokens = 100, .max_num_seqs = 8}, 64);
  Sequence* a = driver.add("a", 20, 100, 3);
  EXPECT_EQ(driver.step(), "a:20");
  RequestState& request = *a->request;
  ASSERT_EQ(request.sequences.size(), 3u);
  for (const auto& each : request.sequences) {
    EXPECT_EQ(each->table.pages, a->table.pages);
    EXPECT_EQ(each->num_generated(), 1);
  }
  EXPECT_EQ(driver.scheduler.pages().num_free(), 62);
  const Plan& plan = driver.scheduler.step(5);
  EXPECT_EQ(plan.batch.page_copies.size(), 2u);
  EXPECT_EQ(plan.samples.size(), 3u);
  driver.scheduler.commit({9, 9, 9});
  EXPECT_EQ(driver.scheduler.pages().num_free(), 60);
  EXPECT_EQ(request.sequences[1]->table.pages[0], a->table.pages[0]);
}

TEST(Scheduler, ForksWithoutASeatComeLater) {
  Driver driver({.max_num_batched_tokens = 100, .max_num_seqs = 2}, 64);
  Sequence* a = driver.add("a", 33, 3, 4);
  EXPECT_EQ(driver.step(), "a:33");
  EXPECT_EQ(driver.scheduler.stats().num_waiting, 2);
  EXPECT_EQ(a->request->sequences[3]->num_generated(), 1);
  EXPECT_EQ(driver.step(), "a:1 a/1:1");
  EXPECT_EQ(driver.step(), "a:1 a/1:1");
  EXPECT_EQ(driver.step(), "a/2:2 a/3:2") << "32 of the prompt's tokens are in the prefix cache";
  EXPECT_EQ(driver.step(), "a/2:1 a/3:1");
  EXPECT_TRUE(driver.scheduler.is_idle());
}

TEST(Scheduler, PrefixCacheSavesAllButTheLastToken) {
  Driver driver({.max_num_batched_tokens = 100, .max_num_seqs = 2}, 64);
  Request request;
  request.prompt.assign(32, 5);
  for (const char* id : {"a", "b"}) {
    request.id = id;
    driver.add(request, 1, 1, 0);
  }
  EXPECT_EQ(driver.step(), "a:32 b:32");
  request.id = "c";
  Sequence* c = driver.add(request, 1, 1, 0);
  const Plan& plan = driver.scheduler.step(9);
  EXPECT_EQ(plan.batch.tokens.size(), 1u);
  EXPECT_EQ(plan.batch.page_copies.size(), 1u);
  EXPECT_EQ(plan.batch.sequences[0].first_position, 31);
  EXPECT_EQ(c->request->num_cached_tokens, 31);
  driver.scheduler.commit({9});
  EXPECT_EQ(driver.scheduler.stats().prefix_cache_hits, 31);
  request.id = "d";
  request.cache_salt = "other";
  driver.add(request, 1, 1, 0);
  EXPECT_EQ(driver.step(), "d:32");
}

TEST(Scheduler, AFullHitThatFillsTheMemoryStillRuns) {
  Driver driver({.max_num_batched_tokens = 100, .max_num_seqs = 2}, 2);
  Request request;
  request.prompt.assign(32, 5);
  request.id = "a";
  driver.add(request, 1, 1, 0);
  EXPECT_EQ(driver.step(), "a:32");
  request.id = "b";
  driver.add(request, 1, 1, 0);
  EXPECT_EQ(driver.step(), "b:16") << "no page for the copy: the last page is computed again";
  EXPECT_TRUE(driver.scheduler.is_idle());
}

TEST(Scheduler, EndsWithLengthWhenPagesRunOutForItAlone) {
  Driver driver({.max_num_batched_tokens = 100, .max_num_seqs = 2, .max_model_len = 1000}, 2);
  Sequence* a = driver.add("a", 30, 100);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(driver.scheduler.step(i).ended.size(), 0u) << i;
    driver.scheduler.commit({9});
  }
  const Plan& plan = driver.scheduler.step(9);
  ASSERT_EQ(plan.ended.size(), 1u);
  EXPECT_EQ(a->finish_reason, FinishReason::kLength);
  EXPECT_EQ(a->num_generated(), 3);
  driver.scheduler.commit({});
  driver.scheduler.remove(*a->request);
  Sequence* big = driver.add("big", 40, 100, 2);
  EXPECT_EQ(driver.scheduler.step(10).ended.size(), 1u);
  EXPECT_EQ(big->request->num_unfinished, 0);
  driver.scheduler.commit({});
}

TEST(Scheduler, StopsWhereItShould) {
  struct Case {
    const char* what;
    int32_t token;
    SamplingParams sampling;
    FinishReason reason;
    int64_t num_generated;
    bool by_end_token;
  };
  auto make = [](int64_t max_tokens, int64_t min_tokens, bool ignore_eos,
                 std::vector<int32_t> stops) {
    SamplingParams sampling;
    sampling.max_tokens = max_tokens, sampling.min_tokens = min_tokens,
    sampling.ignore_eos = ignore_eos;
    sampling.stop_token_ids = std::move(stops);
    return sampling;
  };
  const Case cases[] = {
      {"end token", kEnd, make(5, 0, false, {}), FinishReason::kStop, 1, true},
      {"end token ignored", kEnd, make(5, 0, true, {}), FinishReason::kLength, 5, false},
      {"end token as stop token, ignored as end", kEnd, make(5, 0, true, {kEnd}),
       FinishReason::kStop, 1, false},
      {"stop token", 77, make(5, 0, false, {76, 77}), FinishReason::kStop, 1, false},
      {"stop before min_tokens", 77, make(5, 3, false, {77}), FinishReason::kStop, 4, false},
      {"length", 9, make(5, 0, false, {}), FinishReason::kLength, 5, false},
      {"stop on the last", kEnd, make(1, 0, false, {}), FinishReason::kStop, 1, true},
      {"the model's length", 9, make(1000, 0, false, {}), FinishReason::kLength, 28, false},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.what);
    Driver driver({.max_num_batched_tokens = 100, .max_num_seqs = 2, .max_model_len = 32}, 8);
    Request request;
    request.id = "a";
    request.prompt = {1, 1, 1, 1};
    request.sampling = each.sampling;
    Sequence* a = driver.add(request, each.sampling.max_tokens, 1, 0);
    while (a->state != SequenceState::kFinished) {
      size_t num_samples = driver.scheduler.step(1).samples.size();
      driver.scheduler.commit(std::vector<int32_t>(num_samples, each.token));
    }
    EXPECT_EQ(a->finish_reason, each.reason);
    EXPECT_EQ(a->num_generated(), each.num_generated);
    EXPECT_EQ(a->stopped_by_end_token, each.by_end_token);
    EXPECT_EQ(a->stop_token.has_value(), each.reason == FinishReason::kStop);
  }
}

TEST(Scheduler, ScoresPromptsInBoundedRows) {
  Driver driver({.max_num_batched_tokens = 100, .max_num_seqs = 4, .max_prompt_logit_rows = 10},
                64);
  Request request;
  request.prompt.assign(25, 5);
  request.sampling.num_prompt_logprobs = 1;
  request.id = "a";
  Sequence* a = driver.add(request, 0, 2, 0);
  driver.add("b", 20, 1);
  std::vector<int64_t> positions;
  std::vector<size_t> rows;
  while (a->state != SequenceState::kFinished) {
    const Plan& plan = driver.scheduler.step(1);
    rows.push_back(plan.batch.logit_tokens.size());
    for (const PromptLogits& prompt : plan.prompt_logits) {
      positions.push_back(prompt.position);
      a->request->prompt_logprobs.resize(static_cast<size_t>(prompt.position) + 1);
    }
    driver.scheduler.commit(std::vector<int32_t>(plan.samples.size(), 9));
  }
  EXPECT_EQ(rows, (std::vector<size_t>{11, 10, 4}))
      << "10 of a and 1 of b; the last token's are not needed";
  std::vector<int64_t> expected(24);
  std::iota(expected.begin(), expected.end(), 1);
  EXPECT_EQ(positions, expected);
  EXPECT_EQ(a->request->num_unfinished, 0) << "both sequences";
  EXPECT_EQ(a->num_generated(), 0);
  // The cache is no use to who wants every prompt logprob.
  request.id = "c";
  driver.add(request, 0, 1, 0);
  EXPECT_EQ(driver.step(), "c:10");
}

TEST(Scheduler, CancelFreesPagesAtOnce) {
  Driver driver({.max_num_batched_tokens = 100, .max_num_seqs = 2}, 8);
  Sequence* a = driver.add("a", 20, 100, 3);
  Sequence* b = driver.add("b", 20);
  driver.step();
  driver.step();
  EXPECT_LT(driver.scheduler.pages().num_free(), 8);
  driver.scheduler.finish_all(*a->request, FinishReason::kAbort);
  driver.scheduler.finish_all(*b->request, FinishReason::kAbort);
  EXPECT_EQ(driver.scheduler.pages().num_free(), 8);
  driver.scheduler.remove(*a->request);
  driver.scheduler.remove(*b->request);
  EXPECT_TRUE(driver.scheduler.is_idle());
  driver.scheduler.check_integrity();
}

}  // namespace
}  // namespace sluice::engine
