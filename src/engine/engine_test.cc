#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "engine/fake_model_for_test.h"
#include "engine/kv_memory.h"

namespace sluice::engine {
namespace {

using ::testing::HasSubstr;

// Everything that one request's sink was given.
class Collected {
 public:
  EventSink sink() {
    return [this](Event&& event) {
      std::lock_guard lock(mutex_);
      EXPECT_FALSE(is_over_) << "an event after the last";
      is_over_ = event.is_last;
      events_.push_back(std::move(event));
      changed_.notify_all();
    };
  }
  // All events, once the last is there.
  std::vector<Event>& wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return is_over_; }));
    return events_;
  }
  void wait_for_events(size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(
        changed_.wait_for(lock, std::chrono::seconds(60), [&] { return events_.size() >= count; }));
  }
  std::vector<int32_t> tokens(int sequence_index = 0) {
    std::vector<int32_t> all;
    for (const Event& event : wait()) {
      if (event.sequence_index == sequence_index)
        all.insert(all.end(), event.tokens.begin(), event.tokens.end());
    }
    return all;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Event> events_;
  bool is_over_ = false;
};

Request make_request(const std::string& id, std::vector<int32_t> prompt, Collected& collected,
                     int64_t max_tokens = 10) {
  Request request;
  request.id = id;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.sink = collected.sink();
  return request;
}

std::vector<int32_t> expect_greedy(std::vector<int32_t> history, int64_t count) {
  std::vector<int32_t> said;
  float logits[FakeModel::kVocabulary];
  for (int64_t i = 0; i < count; ++i) {
    FakeModel::write_logits(history, logits);
    said.push_back(
        static_cast<int32_t>(std::max_element(logits, logits + FakeModel::kVocabulary) - logits));
    history.push_back(said.back());
  }
  return said;
}

struct Rig {
  explicit Rig(EngineOptions options = {}, int num_threads = 2) : pool(num_threads) {
    options.end_tokens = {FakeModel::kEndToken};
    if (options.kv_cache_memory_bytes == 0) options.kv_cache_memory_bytes = 256 * page_bytes();
    engine = std::make_unique<Engine>(model, pool, options);
  }
  static int64_t page_bytes() { return FakeModel().kv_layout(DType::kF32).page_bytes(); }

  FakeModel model;
  ThreadPool pool;
  std::unique_ptr<Engine> engine;
};

TEST(Engine, GeneratesAndTellsWhen) {
  Rig rig;
  Collected collected;
  Request request = make_request("a", {5, 6, 7}, collected, 20);
  request.arrival_us = monotonic_us() - 1000;
  int64_t arrival_us = request.arrival_us;
  ASSERT_EQ(rig.engine->submit(std::move(request)), SubmitResult::kAccepted);
  EXPECT_EQ(collected.tokens(), expect_greedy({5, 6, 7}, 20));
  const Event& last = collected.wait().back();
  EXPECT_EQ(last.finish_reason, FinishReason::kLength);
  EXPECT_FALSE(last.error.has_value());
  const Timings& times = last.timings;
  EXPECT_EQ(times.arrival_us, arrival_us);
  EXPECT_LE(times.arrival_us, times.queued_us);
  EXPECT_LE(times.queued_us, times.scheduled_us);
  EXPECT_LE(times.scheduled_us, times.first_token_us);
  EXPECT_LE(times.first_token_us, times.finished_us);
  EXPECT_EQ(collected.wait().front().timings.finished_us, 0);
  EXPECT_TRUE(rig.engine->wait_until_idle(10000));
  EngineStats stats = rig.engine->stats();
  EXPECT_EQ(stats.prompt_tokens, 3);
  EXPECT_EQ(stats.generation_tokens, 20);
  EXPECT_EQ(stats.num_steps, 20);
  EXPECT_EQ(stats.num_free_pages, stats.num_pages);
  rig.engine->check_integrity();
  EXPECT_TRUE(rig.engine->healthy());
}

TEST(Engine, EventsOfAStepHaveOneTime) {
  Rig rig({.max_num_batched_tokens = 41});
  Collected first, second;
  rig.model.shut_gate();
  ASSERT_EQ(rig.engine->submit(make_request("a", std::vector<int32_t>(40, 9), first, 5)), SubmitResult::kAccepted);
  rig.model.wait_until_in_step();
  // Its prompt is computed in the step that makes the first one's second token.
  ASSERT_EQ(rig.engine->submit(make_request("b", std::vector<int32_t>(40, 8), second, 5)), SubmitResult::kAccepted);
  rig.model.open_gate();
  const int64_t all_prompts_us = second.wait().front().timings.first_token_us;
  EXPECT_EQ(second.wait().front().emitted_us, all_prompts_us);
  EXPECT_EQ(second.wait().back().emitted_us, second.wait().back().timings.finished_us);
  size_t num_after = 0;
  for (Collected* collected : {&first, &second}) {
    int64_t before_us = 0;
    for (const Event& event : collected->wait()) {
      EXPECT_GE(event.emitted_us, before_us);
      before_us = event.emitted_us;
      num_after += event.emitted_us > all_prompts_us ? event.tokens.size() : 0;
    }
  }
  ASSERT_EQ(first.tokens().size(), 5u);
  ASSERT_EQ(second.tokens().size(), 5u);
  EXPECT_EQ(num_after, 3u + 4u);
}

TEST(Engine, SamplesTheSameTextWhateverElseRuns) {
  std::vector<int32_t> alone;
  for (auto [others, num_threads] : {std::pair(0, 1), std::pair(30, 1), std::pair(31, 4)}) {
    Rig rig({.kv_cache_memory_bytes = 60 * Rig::page_bytes(),
             .max_num_batched_tokens = 40,
             .max_num_seqs = 12},
            num_threads);
    std::vector<Collected> noise(static_cast<size_t>(others));
    for (int i = 0; i < others; ++i) {
      Request request = make_request("n" + std::to_string(i),
                                     std::vector<int32_t>(static_cast<size_t>(5 + i), 3 + i % 4),
                                     noise[static_cast<size_t>(i)], 30);
      request.sampling.temperature = 1;
      ASSERT_EQ(rig.engine->submit(std::move(request)), SubmitResult::kAccepted);
    }
    Collected collected;
    Request request = make_request("a", std::vector<int32_t>(40, 9), collected, 60);
    request.sampling.temperature = 1.2;
    request.sampling.top_p = 0.95;
    request.sampling.seed = 1234;
    request.sampling.ignore_eos = true;
    ASSERT_EQ(rig.engine->submit(std::move(request)), SubmitResult::kAccepted);
    std::vector<int32_t> said = collected.tokens();
    EXPECT_EQ(said.size(), 60u);
    if (others == 0) alone = said;
    EXPECT_EQ(said, alone);
    rig.engine->check_integrity();
  }
}

TEST(Engine, SequencesOfARequestDiffer) {
  Rig rig;
  Collected collected;
  Request request = make_request("a", std::vector<int32_t>(21, 5), collected, 30);
  request.num_sequences = 4;
  request.sampling.temperature = 1;
  request.sampling.seed = 9;
  ASSERT_EQ(rig.engine->submit(std::move(request)), SubmitResult::kAccepted);
  std::map<std::vector<int32_t>, int> texts;
  int num_last = 0, num_finished = 0;
  for (const Event& event : collected.wait()) {
    num_last += event.is_last;
    num_finished += event.finish_reason != FinishReason::kNone;
  }
  for (int i = 0; i < 4; ++i) ++texts[collected.tokens(i)];
  EXPECT_EQ(texts.size(), 4u);
  EXPECT_EQ(num_last, 1);
  EXPECT_EQ(num_finished, 4);
  EXPECT_TRUE(rig.engine->wait_until_idle(10000));
  EXPECT_EQ(rig.engine->stats().prompt_tokens, 21) << "the prompt is computed once";
}

TEST(Engine, EndTokenAndStopTokensEnd) {
  Rig rig;
  for (bool is_end : {true, false}) {
    Collected collected;
    Request request = make_request("a", {5, 6}, collected, 20);
    int32_t token = is_end ? FakeModel::kEndToken : 30;
    if (!is_end) request.sampling.stop_token_ids = {30};
    request.sampling.logit_bias = {{token, 100.0f}};
    request.sampling.min_tokens = 4;
    ASSERT_EQ(rig.engine->submit(std::move(request)), SubmitResult::kAccepted);
    const Event& last = collected.wait().back();
    EXPECT_EQ(last.finish_reason, FinishReason::kStop);
    EXPECT_EQ(last.stop_token, token);
    EXPECT_EQ(last.stopped_by_end_token, is_end);
    EXPECT_EQ(collected.tokens().size(), 5u);
    EXPECT_EQ(last.tokens, std::vector<int32_t>{token});
  }
}

TEST(Engine, LogprobsOfPromptAndOutput) {
  Rig rig({.max_num_batched_tokens = 400});
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 300; ++i) prompt.push_back(3 + i % 50);
  Collected first, second;
  for (Collected* collected : {&first, &second}) {
    Request request = make_request("a", prompt, *collected, 3);
    request.sampling.num_logprobs = 2;
    request.sampling.num_prompt_logprobs = 1;
    ASSERT_EQ(rig.engine->submit(std::move(request)), SubmitResult::kAccepted);
    const std::vector<Event>& events = collected->wait();
    EXPECT_EQ(events[0].num_cached_tokens, 0) << "each logprob is computed";
    ASSERT_NE(events[0].prompt_logprobs, nullptr);
    EXPECT_EQ(events[1].prompt_logprobs, nullptr);
    const std::vector<PositionLogprobs>& scores = *events[0].prompt_logprobs;
    ASSERT_EQ(scores.size(), prompt.size());
    EXPECT_TRUE(std::isnan(scores[0].chosen.logprob));
    float logits[FakeModel::kVocabulary];
    for (size_t i : {1u, 2u, 17u, 255u, 256u, 257u, 299u}) {
      FakeModel::write_logits({prompt.begin(), prompt.begin() + static_cast<int64_t>(i)}, logits);
      double sum = 0;
      for (float logit : logits) sum += std::exp(static_cast<double>(logit));
      EXPECT_EQ(scores[i].chosen.token, prompt[i]);
      EXPECT_NEAR(scores[i].chosen.logprob, static_cast<double>(logits[prompt[i]]) - std::log(sum),
                  1e-5)
          << i;
      ASSERT_EQ(scores[i].top.size(), 1u);
      EXPECT_EQ(scores[i].top[0].token,
                std::max_element(logits, logits + FakeModel::kVocabulary) - logits);
    }
    for (const Event& event : events) {
      ASSERT_EQ(event.logprobs.size(), 1u);
      EXPECT_EQ(event.logprobs[0].chosen.token, event.tokens[0]);
      EXPECT_EQ(event.logprobs[0].chosen.rank, 1);
      EXPECT_EQ(event.logprobs[0].top.size(), 2u);
    }
  }
}

TEST(Engine, ScoresAPromptWithoutGenerating) {
  Rig rig;
  for (int64_t length : {1, 5, 32}) {
    Collected collected;
    Request request =
        make_request("a", std::vector<int32_t>(static_cast<size_t>(length), 4), collected, 0);
    request.sampling.num_prompt_logprobs = 0;
    request.num_sequences = 2;
    ASSERT_EQ(rig.engine->submit(std::move(request)), SubmitResult::kAccepted);
    const std::vector<Event>& events = collected.wait();
    ASSERT_EQ(events.size(), 2u);
    ASSERT_NE(events[0].prompt_logprobs, nullptr);
    EXPECT_EQ(static_cast<int64_t>(events[0].prompt_logprobs->size()), length);
    EXPECT_TRUE(events[0].tokens.empty());
    EXPECT_EQ(events[0].finish_reason, FinishReason::kLength);
  }
}

TEST(Engine, PrefixCacheIsUsedAndCanBeOff) {
  for (bool on : {true, false}) {
    Rig rig({.enable_prefix_caching = on});
    for (int64_t round : {0, 1}) {
      Collected collected;
      ASSERT_EQ(rig.engine->submit(make_request("a", std::vector<int32_t>(50, 8), collected, 5)),
                SubmitResult::kAccepted);
      EXPECT_EQ(collected.tokens(), expect_greedy(std::vector<int32_t>(50, 8), 5));
      EXPECT_EQ(collected.wait().front().num_cached_tokens, on && round == 1 ? 48 : 0);
    }
    EXPECT_TRUE(rig.engine->wait_until_idle(10000));
    EXPECT_EQ(rig.engine->stats().prefix_cache_hits, on ? 48 : 0);
  }
}

TEST(Engine, CancelTakesEffectBeforeTheNextStep) {
  Rig rig;
  rig.model.shut_gate();
  Collected a, b;
  ASSERT_EQ(rig.engine->submit(make_request("a", {5}, a, 400)), SubmitResult::kAccepted);
  rig.model.wait_until_in_step();
  ASSERT_EQ(rig.engine->submit(make_request("b", {6}, b, 400)), SubmitResult::kAccepted);
  rig.engine->cancel("b");  // while it is still in the queue
  rig.engine->cancel("a");
  rig.engine->cancel("nobody");
  rig.model.open_gate();
  EXPECT_EQ(a.wait().back().finish_reason, FinishReason::kAbort);
  EXPECT_EQ(a.tokens().size(), 1u) << "of the step that was under way";
  EXPECT_EQ(b.wait().back().finish_reason, FinishReason::kAbort);
  EXPECT_EQ(b.wait().size(), 1u);
  EXPECT_TRUE(rig.engine->wait_until_idle(10000));
  EXPECT_EQ(rig.model.num_steps.load(), 1);
  EXPECT_EQ(rig.engine->stats().num_free_pages, rig.engine->stats().num_pages);
}

TEST(Engine, AStopStringEndsOneSequence) {
  Rig rig;
  Collected collected;
  Request request = make_request("a", {5, 6}, collected, 60);
  request.num_sequences = 2;
  request.sink = [&, sink = request.sink](Event&& event) mutable {
    // As a stop string would, from within the sink.
    if (event.sequence_index == 1 && event.finish_reason == FinishReason::kNone)
      rig.engine->finish_sequence("a", 1);
    sink(std::move(event));
  };
  ASSERT_EQ(rig.engine->submit(std::move(request)), SubmitResult::kAccepted);
  std::map<int, FinishReason> reasons;
  for (const Event& event : collected.wait()) {
    if (event.finish_reason != FinishReason::kNone)
      reasons[event.sequence_index] = event.finish_reason;
  }
  EXPECT_EQ(reasons,
            (std::map<int, FinishReason>{{0, FinishReason::kLength}, {1, FinishReason::kStop}}));
  EXPECT_EQ(collected.tokens(1).size(), 1u);
  EXPECT_EQ(collected.tokens(0).size(), 60u);
}

TEST(Engine, AFullQueueIsAnAnswer) {
  Rig rig({.max_num_seqs = 1, .max_queue = 2});
  rig.model.shut_gate();
  std::vector<Collected> collected(5);
  auto submit = [&](int i) {
    return rig.engine->submit(
        make_request(std::to_string(i), {5, 6}, collected[static_cast<size_t>(i)], 2));
  };
  EXPECT_EQ(submit(0), SubmitResult::kAccepted);
  rig.model.wait_until_in_step();
  EXPECT_EQ(submit(1), SubmitResult::kAccepted);
  EXPECT_EQ(submit(2), SubmitResult::kAccepted);
  EXPECT_EQ(submit(3), SubmitResult::kQueueFull);
  rig.model.open_gate();
  EXPECT_TRUE(rig.engine->wait_until_idle(10000));
  EXPECT_EQ(submit(4), SubmitResult::kAccepted);
  for (int i : {0, 1, 2, 4}) EXPECT_EQ(collected[static_cast<size_t>(i)].tokens().size(), 2u);
}

TEST(Engine, AFailedStepEndsItsRequestsOnly) {
  Rig rig({.max_num_batched_tokens = 8, .max_num_seqs = 4});
  Collected good, bad, nan, later;
  ASSERT_EQ(rig.engine->submit(make_request("bad", {5, FakeModel::kFailToken}, bad)),
            SubmitResult::kAccepted);
  EXPECT_EQ(bad.wait().back().finish_reason, FinishReason::kError);
  ASSERT_TRUE(bad.wait().back().error.has_value());
  EXPECT_THAT(bad.wait().back().error->message(), HasSubstr("met token 63"));
  // A request whose logits are not numbers fails alone, within the same steps as another.
  Request request = make_request("nan", {5, FakeModel::kNanToken}, nan);
  request.num_sequences = 3;
  ASSERT_EQ(rig.engine->submit(make_request("good", {7, 8}, good)), SubmitResult::kAccepted);
  ASSERT_EQ(rig.engine->submit(std::move(request)), SubmitResult::kAccepted);
  EXPECT_EQ(good.tokens(), expect_greedy({7, 8}, 10));
  ASSERT_EQ(nan.wait().size(), 3u);
  for (const Event& event : nan.wait()) {
    EXPECT_EQ(event.finish_reason, FinishReason::kError);
    EXPECT_THAT(event.error->message(), HasSubstr("not finite"));
  }
  ASSERT_EQ(rig.engine->submit(make_request("bad", {7, 8}, later)), SubmitResult::kAccepted)
      << "the id is free again";
  EXPECT_EQ(later.tokens(), expect_greedy({7, 8}, 10));
  EXPECT_TRUE(rig.engine->healthy());
  rig.engine->check_integrity();
}

TEST(Engine, RefusesBadRequests) {
  Rig rig;
  Collected collected;
  auto refuse = [&](const char* param, const char* text, auto change) {
    Request request = make_request("a", {5, 6}, collected);
    change(request);
    try {
      (void)rig.engine->submit(std::move(request));
      ADD_FAILURE() << param << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kInvalidArgument);
      EXPECT_EQ(error.param(), param);
      EXPECT_THAT(error.message(), HasSubstr(text));
    }
  };
  refuse("prompt", "no tokens", [](Request& r) { r.prompt.clear(); });
  refuse("prompt", "64", [](Request& r) { r.prompt = {5, 64}; });
  refuse("prompt", "-1", [](Request& r) { r.prompt = {-1}; });
  refuse("prompt", "513", [](Request& r) { r.prompt.assign(513, 5); });
  refuse("prompt", "512", [](Request& r) { r.prompt.assign(513, 5); });
  refuse("n", "0", [](Request& r) { r.num_sequences = 0; });
  refuse("temperature", "-1", [](Request& r) { r.sampling.temperature = -1; });

  rig.model.shut_gate();
  ASSERT_EQ(rig.engine->submit(make_request("a", std::vector<int32_t>(512, 5), collected)),
            SubmitResult::kAccepted);
  Collected other;
  EXPECT_THROW((void)rig.engine->submit(make_request("a", {5}, other)), Error) << "the id is taken";
  rig.model.open_gate();
  EXPECT_EQ(collected.wait().back().finish_reason, FinishReason::kLength);
  EXPECT_EQ(collected.tokens().size(), 1u) << "the prompt fills the model";
}

TEST(Engine, TheEndAbortsWhatRuns) {
  Collected running, waiting;
  {
    Rig rig({.max_num_seqs = 1});
    rig.model.shut_gate();
    ASSERT_EQ(rig.engine->submit(make_request("a", {5}, running, 500)), SubmitResult::kAccepted);
    rig.model.wait_until_in_step();
    ASSERT_EQ(rig.engine->submit(make_request("b", {5}, waiting, 500)), SubmitResult::kAccepted);
    std::thread opener([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      rig.model.open_gate();
    });
    rig.engine.reset();
    opener.join();
  }
  EXPECT_EQ(running.wait().back().finish_reason, FinishReason::kAbort);
  EXPECT_EQ(waiting.wait().back().finish_reason, FinishReason::kAbort);
}

TEST(Engine, SixtyFourSubmittersAtOnce) {
  Rig rig({.kv_cache_memory_bytes = 40 * Rig::page_bytes(),
           .max_num_batched_tokens = 64,
           .max_num_seqs = 16});
  std::atomic<int64_t> num_steps_seen{0};
  rig.engine->set_step_observer([&](int64_t num_tokens) { num_steps_seen += num_tokens > 0; });
  std::vector<std::thread> threads;
  for (int t = 0; t < 64; ++t) {
    threads.emplace_back([&, t] {
      Random random(static_cast<uint64_t>(t));
      for (int round = 0; round < 4; ++round) {
        Collected collected;
        std::vector<int32_t> prompt(1 + random.below(60),
                                    static_cast<int32_t>(3 + random.below(4)));
        std::string id = std::to_string(t) + "." + std::to_string(round);
        int64_t max_tokens = static_cast<int64_t>(1 + random.below(20));
        ASSERT_EQ(rig.engine->submit(make_request(id, prompt, collected, max_tokens)),
                  SubmitResult::kAccepted);
        if (random.below(3) == 0) {
          if (random.below(2) == 0) collected.wait_for_events(1);
          rig.engine->cancel(id);
        }
        (void)rig.engine->stats();
        std::vector<int32_t> said = collected.tokens();
        std::vector<int32_t> expected = expect_greedy(prompt, static_cast<int64_t>(said.size()));
        EXPECT_EQ(said, expected);
        FinishReason reason = collected.wait().back().finish_reason;
        EXPECT_TRUE(reason == FinishReason::kAbort ||
                    said.size() == static_cast<size_t>(max_tokens));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(rig.engine->wait_until_idle(10000));
  rig.engine->check_integrity();
  EngineStats stats = rig.engine->stats();
  EXPECT_EQ(stats.num_running + stats.num_waiting, 0);
  EXPECT_EQ(stats.num_free_pages, stats.num_pages);
  EXPECT_EQ(num_steps_seen.load(), stats.num_steps);
}

TEST(KvMemory, TakesWhatIsGivenOrWhatIsUseful) {
  FakeModel model;  // 512 positions
  int64_t page = Rig::page_bytes();
  EngineOptions options;
  options.max_num_seqs = 4;
  KvMemoryPlan plan = plan_kv_memory(options, model, int64_t{1} << 40);
  EXPECT_EQ(plan.num_pages, 4 * 32);
  EXPECT_EQ(plan.max_model_len, 512);
  plan = plan_kv_memory(options, model, 100 * page);
  EXPECT_EQ(plan.num_pages, 70);
  plan = plan_kv_memory(options, model, 20 * page);
  EXPECT_EQ(plan.num_pages, 14);
  EXPECT_EQ(plan.max_model_len, 14 * 16) << "lowered to what there is memory for";
  options.kv_cache_memory_bytes = 1000 * page + 1;
  EXPECT_EQ(plan_kv_memory(options, model, int64_t{1} << 40).num_pages, 1000);
  options.max_model_len = 100;
  EXPECT_EQ(plan_kv_memory(options, model, int64_t{1} << 40).max_model_len, 100);
  options.max_model_len = 513;
  EXPECT_THROW(plan_kv_memory(options, model, int64_t{1} << 40), Error);
  options.max_model_len = 0;
  options.kv_cache_memory_bytes = page - 1;
  EXPECT_THROW(plan_kv_memory(options, model, int64_t{1} << 40), Error);
  EXPECT_GT(available_memory_bytes(), int64_t{1} << 20);
}

}  // namespace
}  // namespace sluice::engine
