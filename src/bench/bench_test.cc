#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"
#include "bench/message_of_for_test.h"
#include "bench/prompts.h"
#include "bench/request_record.h"
#include "bench/sse_reader.h"
#include "bench/statistics.h"
#include "bench/workload.h"

namespace sluice::bench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// The expected figures are NumPy's, of numpy.percentile and numpy.std.
TEST(Statistics, PercentilesAsNumpy) {
  const std::vector<double> values = {15, 20, 35, 40, 50};
  Summary summary = summarize({40, 15, 50, 20, 35}, {0, 25, 40, 99, 100});
  EXPECT_DOUBLE_EQ(summary.mean, 32);
  EXPECT_DOUBLE_EQ(summary.median, 35);
  EXPECT_NEAR(summary.deviation, 12.884098726725126, 1e-12);
  ASSERT_EQ(summary.percentiles.size(), 5u);
  EXPECT_DOUBLE_EQ(summary.percentiles[0], 15);
  EXPECT_DOUBLE_EQ(summary.percentiles[1], 20);
  EXPECT_DOUBLE_EQ(summary.percentiles[2], 29);
  EXPECT_NEAR(summary.percentiles[3], 49.6, 1e-12);
  EXPECT_DOUBLE_EQ(summary.percentiles[4], 50);
  EXPECT_NEAR(sample_deviation_of(values), 14.404860290887934, 1e-12);
}

TEST(Statistics, FewValues) {
  EXPECT_EQ(summarize({}, {50, 99}).percentiles, (std::vector<double>{0, 0}));
  EXPECT_EQ(summarize({7}, {1, 99}).percentiles, (std::vector<double>{7, 7}));
  EXPECT_EQ(sample_deviation_of({7}), 0);
  EXPECT_DOUBLE_EQ(percentile_of_sorted({1, 2}, 50), 1.5);
}

TEST(Workload, LengthsStayInRangeAndFollowTheSeed) {
  const RandomLengths lengths{.num_requests = 2000,
                              .input_tokens = 100,
                              .output_tokens = 10,
                              .range_ratio = 0.5,
                              .prefix_tokens = 30,
                              .num_prefixes = 3,
                              .seed = 7};
  std::vector<PlannedRequest> requests = plan_random(lengths);
  double sum = 0;
  std::set<int64_t> prefixes;
  for (const PlannedRequest& request : requests) {
    EXPECT_GE(request.prompt_tokens, 30 + 50);
    EXPECT_LE(request.prompt_tokens, 30 + 150);
    EXPECT_GE(request.output_tokens, 5);
    EXPECT_LE(request.output_tokens, 15);
    EXPECT_EQ(request.prefix_tokens, 30);
    prefixes.insert(request.prefix_index);
    sum += static_cast<double>(request.prompt_tokens - 30);
  }
  EXPECT_NEAR(sum / 2000, 100, 3);
  EXPECT_EQ(prefixes, (std::set<int64_t>{0, 1, 2}));
  RandomLengths other = lengths;
  EXPECT_EQ(plan_random(other)[17].prompt_tokens, requests[17].prompt_tokens);
  other.seed = 8;
  int different = 0;
  for (size_t i = 0; i < requests.size(); ++i)
    different += plan_random(other)[i].prompt_tokens != requests[i].prompt_tokens;
  EXPECT_GT(different, 1900);
}

TEST(Workload, ArrivalsHaveTheRateAndTheShape) {
  for (double burstiness : {0.5, 1.0, 4.0}) {
    std::vector<PlannedRequest> requests(20'000), again(20'000);
    plan_arrivals(requests, 50, burstiness, 3);
    plan_arrivals(again, 50, burstiness, 3);
    EXPECT_EQ(requests[0].arrival_seconds, 0);
    std::vector<double> intervals;
    for (size_t i = 1; i < requests.size(); ++i) {
      ASSERT_EQ(requests[i].arrival_seconds, again[i].arrival_seconds);
      intervals.push_back(requests[i].arrival_seconds - requests[i - 1].arrival_seconds);
      ASSERT_GE(intervals.back(), 0);
    }
    const double mean = mean_of(intervals), variation = deviation_of(intervals) / mean;
    EXPECT_NEAR(mean, 0.02, 0.0008) << burstiness;
    EXPECT_NEAR(variation, 1 / std::sqrt(burstiness), 0.05) << burstiness;
  }
  std::vector<PlannedRequest> requests(5);
  plan_arrivals(requests, std::numeric_limits<double>::infinity(), 1, 3);
  for (const PlannedRequest& request : requests) EXPECT_EQ(request.arrival_seconds, 0);
}

TEST(Trace, AzureColumnsInAnyOrderOfLines) {
  std::vector<PlannedRequest> requests = parse_trace(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-30 23:59:59.5000000,374,44\r\n\r\n"
      "2023-12-01 00:00:01.5000000,396,109\r\n2023-11-30 23:59:58.5000000,5,6\r\n",
      "t.csv", 2, 0);
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[0].prompt_tokens, 5);
  EXPECT_EQ(requests[0].output_tokens, 6);
  EXPECT_DOUBLE_EQ(requests[0].arrival_seconds, 0);
  EXPECT_NEAR(requests[1].arrival_seconds, 0.5, 1e-6);
  EXPECT_NEAR(requests[2].arrival_seconds, 1.5, 1e-6);
  EXPECT_EQ(requests[2].output_tokens, 109);
}

TEST(Trace, TimeZones) {
  std::vector<PlannedRequest> requests = parse_trace(
      "time,prompt_tokens,output_tokens\n2023-11-30 23:59:59.5+00:00,1,1\n2023-12-01T00:00:01Z,2,1\n"
      "2023-12-01 01:00:02+01:00,3,1\n2023-11-30 18:30:03.25-0530,4,1\n",
      "t.csv", 1, 0);
  ASSERT_EQ(requests.size(), 4u);
  const double expected[] = {0, 1.5, 2.5, 3.75};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(requests[i].prompt_tokens, static_cast<int64_t>(i) + 1);
    EXPECT_NEAR(requests[i].arrival_seconds, expected[i], 1e-6);
  }
}

TEST(Trace, SecondsOtherNamesAndALimit) {
  std::vector<PlannedRequest> requests =
      parse_trace("id,output_tokens,\"Prompt_Tokens\",arrival_time\na,3,20,1.5\nb,4,30,2\nc,5,40,9", "t.csv", 1, 2);
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[1].prompt_tokens, 30);
  EXPECT_DOUBLE_EQ(requests[1].arrival_seconds, 0.5);
}

TEST(Trace, BadLinesAreNamed) {
  const std::string head = "TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n";
  const std::pair<std::string, std::string> cases[] = {
      {"", "t.csv: no requests"},
      {"TIMESTAMP,ContextTokens,GeneratedTokens\n", "t.csv: no requests"},
      {"TIMESTAMP,Context,GeneratedTokens\n1,2,3\n", "t.csv:1: no column with the prompt's tokens"},
      {head + "1,2\n", "t.csv:3: 2 columns"},
      {head + "\n1,x,3\n", "t.csv:4: 'x' is no number of prompt tokens"},
      {head + "1,0,3\n", "t.csv:3: '0' is no number of prompt tokens"},
      {head + "1,2,-3\n", "t.csv:3: '-3' is no number of generated tokens"},
      {head + "1,2,99999999999999999999\n", "t.csv:3: '99999999999999999999'"},
      {head + "yesterday,2,3\n", "t.csv:3: 'yesterday' is no arrival time"},
      {head + "2023-13-16 18:15:46,2,3\n", "t.csv:3: '2023-13-16 18:15:46' is no arrival time"},
      {head + "2023-12-16 18:15:46+1:00,2,3\n", "t.csv:3: '2023-12-16 18:15:46+1:00' is no arrival time"},
      {head + "2023-12-16 18:15:46+00:0x,2,3\n", "t.csv:3: '2023-12-16 18:15:46+00:0x' is no arrival time"},
      {head + "nan,2,3\n", "t.csv:3: 'nan' is no arrival time"},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_THAT(message_of([&, &text = text] { parse_trace(text, "t.csv", 1, 0); }), HasSubstr(expected));
  }
}

TEST(Prompts, ExactLengthsSharedPrefixesNothingElseShared) {
  Prompts prompts{.seed = 5};
  for (int32_t i = 0; i < 5000; ++i) prompts.id_pool.push_back(100 + i);
  const PlannedRequest request{.prompt_tokens = 50, .prefix_tokens = 20, .prefix_index = 1};
  std::vector<int32_t> a = prompts.ids(request, 0), b = prompts.ids(request, 1);
  ASSERT_EQ(a.size(), 50u);
  EXPECT_EQ(a, prompts.ids(request, 0));
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 20, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 20, a.begin() + 24, b.begin() + 20));
  PlannedRequest other = request;
  other.prefix_index = 2;
  EXPECT_FALSE(std::equal(a.begin(), a.begin() + 4, prompts.ids(other, 0).begin()));
}

TEST(Prompts, WordsMakeUpTheTokensAskedFor) {
  Prompts prompts{.tokens_per_word = 2, .overhead_tokens = 10, .seed = 5};
  auto count_words = [](const std::string& text) { return 1 + std::count(text.begin(), text.end(), ' '); };
  EXPECT_EQ(count_words(prompts.text({.prompt_tokens = 110}, 3)), 50);
  EXPECT_EQ(count_words(prompts.text({.prompt_tokens = 3}, 3)), 1);
  PlannedRequest request{.prompt_tokens = 110, .prefix_tokens = 50, .prefix_index = 0};
  std::string a = prompts.text(request, 1), b = prompts.text(request, 2);
  EXPECT_EQ(count_words(a), 50);
  EXPECT_EQ(a.substr(0, 60), b.substr(0, 60));
  EXPECT_NE(a, b);
}

TEST(SseReader, AnyCutGivesTheSameEvents) {
  const std::string stream = ": hello\r\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:two\ndata: lines\n\n\ndata: [DONE]\n\n";
  for (size_t step = 1; step <= stream.size(); ++step) {
    SseReader reader;
    std::vector<std::string> events;
    for (size_t at = 0; at < stream.size(); at += step) {
      ASSERT_TRUE(reader.feed(std::string_view(stream).substr(at, step),
                              [&](std::string_view data) { events.emplace_back(data); }));
    }
    EXPECT_THAT(events, ElementsAre("{\"a\":1}", "two\nlines", "[DONE]")) << step;
  }
}

TEST(SseReader, AnEndlessEventIsRefused) {
  SseReader reader;
  const std::string megabyte(1 << 20, 'x');
  bool accepted = true;
  for (int i = 0; i < 20 && accepted; ++i) accepted = reader.feed(megabyte, [](std::string_view) {});
  EXPECT_FALSE(accepted);
}

RequestRecord read_stream(const std::vector<std::string>& events) {
  RequestRecord record;
  StreamReader reader(record);
  for (size_t i = 0; i < events.size(); ++i) reader.read(events[i], static_cast<double>(i + 1));
  reader.finish();
  return record;
}

TEST(StreamReader, CompletionsWithUsage) {
  RequestRecord record =
      read_stream({R"({"choices":[{"text":"a"}]})", R"({"choices":[{"text":"","finish_reason":"length"}]})",
                   R"({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,)"
                   R"("prompt_tokens_details":{"cached_tokens":4}}})",
                   "[DONE]"});
  EXPECT_TRUE(record.ok()) << record.error;
  EXPECT_THAT(record.piece_seconds, ElementsAre(1, 2));
  EXPECT_EQ(record.prompt_tokens, 9);
  EXPECT_EQ(record.output_tokens, 3);
  EXPECT_EQ(record.cached_tokens, 4);
  EXPECT_DOUBLE_EQ(record.tpot(), 0.5);
}

TEST(StreamReader, CachedTokensAreKnownOnlyIfTold) {
  const std::string before = R"({"choices":[{"text":"a"}],"usage":{"prompt_tokens":9,"completion_tokens":3)";
  EXPECT_EQ(read_stream({before + "}}"}).cached_tokens, std::nullopt);
  EXPECT_EQ(read_stream({before + R"(,"prompt_tokens_details":null}})"}).cached_tokens, std::nullopt);
  EXPECT_EQ(read_stream({before + R"(,"prompt_tokens_details":{}}})"}).cached_tokens, std::nullopt);
  EXPECT_EQ(read_stream({before + R"(,"prompt_tokens_details":{"cached_tokens":0}}})"}).cached_tokens, 0);
}

TEST(StreamReader, ShortAnswers) {
  const std::string usage = R"({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}})";
  struct Case {
    std::vector<std::string> events;
    int64_t wanted;
    bool is_short;
  };
  const Case cases[] = {
      {{R"({"choices":[{"text":"a","finish_reason":"stop"}]})", usage}, 3, true},
      {{R"({"choices":[{"text":"a","finish_reason":"stop"}]})", usage}, 2, false},  // the end came just then
      {{R"({"choices":[{"text":"a","finish_reason":"length"}]})", usage}, 2, false},
      {{R"({"choices":[{"text":"a","finish_reason":"length"}]})", usage}, 3, true},  // no room for more
      // Without usage: a piece may have several tokens.
      {{R"({"choices":[{"text":"a","finish_reason":"length"}]})"}, 3, false},
      {{R"({"choices":[{"text":"a","finish_reason":"stop"}]})"}, 3, true},
      {{R"({"choices":[{"text":"a"}]})"}, 3, false},
  };
  for (const Case& c : cases) {
    RequestRecord record = read_stream(c.events);
    record.wanted_tokens = c.wanted;
    EXPECT_EQ(record.is_short(), c.is_short) << c.events.front() << c.events.size();
  }
}

TEST(StreamReader, ChatCountsPiecesWithOutputOnly) {
  RequestRecord record = read_stream(
      {R"({"choices":[{"delta":{"role":"assistant","content":""}}]})", R"({"choices":[{"delta":{"content":"a"}}]})",
       R"({"choices":[{"delta":{"content":""}}]})", R"({"choices":[{"delta":{"content":"b"}}]})",
       R"({"choices":[{"delta":{},"finish_reason":"stop"}]})"});
  EXPECT_TRUE(record.ok()) << record.error;
  EXPECT_THAT(record.piece_seconds, ElementsAre(2, 3, 4));
  EXPECT_FALSE(record.has_usage);
  EXPECT_EQ(record.output_tokens, 3);
}

TEST(StreamReader, WhatGoesWrong) {
  EXPECT_THAT(read_stream({}).error, HasSubstr("without a token"));
  EXPECT_THAT(read_stream({"{"}).error, HasSubstr("no JSON"));
  EXPECT_THAT(read_stream({"[1]"}).error, HasSubstr("no JSON object"));
  EXPECT_THAT(read_stream({R"({"error":{"message":"out of\npages"}})"}).error, "the stream broke off: out of pages");
  EXPECT_EQ(describe_error_reply(429, R"({"error":{"message":"queue full"}})"), "HTTP 429: queue full");
  EXPECT_EQ(describe_error_reply(404, R"({"detail":"Not Found"})"), "HTTP 404: Not Found");
  EXPECT_EQ(describe_error_reply(502, "bad\tgateway"), "HTTP 502: bad gateway");
  EXPECT_EQ(describe_error_reply(500, ""), "HTTP 500");
  EXPECT_LT(describe_error_reply(500, std::string(100'000, 'x')).size(), 400u);
}

}  // namespace
}  // namespace sluice::bench
