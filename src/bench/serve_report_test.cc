#include "bench/serve_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "bench/message_of_for_test.h"

namespace sluice::bench {
namespace {

using testing::HasSubstr;
using testing::Not;

RequestRecord make_record(double start, std::vector<double> pieces, int64_t prompt, int64_t output) {
  RequestRecord record;
  record.start_seconds = start;
  record.piece_seconds = std::move(pieces);
  record.prompt_tokens = prompt;
  record.output_tokens = output;
  record.has_usage = true;
  return record;
}

std::vector<RequestRecord> some_records() {
  std::vector<RequestRecord> records = {make_record(0, {0.1, 0.2, 0.3}, 10, 3), make_record(0.25, {0.2, 0.6}, 20, 5),
                                        make_record(1, {0.5}, 30, 1)};
  for (const char* error : {"HTTP 400: 120 tokens are too many", "HTTP 429: busy", "HTTP 400: 7 tokens are too many"}) {
    records.emplace_back().error = error;
  }
  return records;
}

TEST(ServeReport, Figures) {
  const std::vector<double> percents = {50, 99};
  ServeMetrics metrics = compute_metrics(some_records(), 2, parse_goodput({"ttft:150", "e2el:500"}), percents);
  EXPECT_EQ(metrics.num_completed, 3);
  EXPECT_EQ(metrics.num_failed, 3);
  EXPECT_EQ(metrics.input_tokens, 60);
  EXPECT_EQ(metrics.output_tokens, 9);
  EXPECT_DOUBLE_EQ(metrics.requests_per_second, 1.5);
  EXPECT_DOUBLE_EQ(metrics.goodput_per_second, 0.5);
  EXPECT_DOUBLE_EQ(metrics.output_per_second, 4.5);
  EXPECT_DOUBLE_EQ(metrics.tokens_per_second, 34.5);
  EXPECT_DOUBLE_EQ(metrics.peak_output_per_second, 8);
  EXPECT_EQ(metrics.cached_tokens, std::nullopt);
  EXPECT_EQ(metrics.num_short, 0);
  EXPECT_EQ(metrics.peak_concurrency, 2);
  EXPECT_NEAR(metrics.ttft_ms.mean, (100 + 200 + 500) / 3.0, 1e-9);
  EXPECT_NEAR(metrics.ttft_ms.median, 200, 1e-9);
  EXPECT_NEAR(metrics.tpot_ms.mean, 100, 1e-9);  // of the two with more than one token
  EXPECT_NEAR(metrics.itl_ms.median, 100, 1e-9);
  EXPECT_NEAR(metrics.e2el_ms.percentiles[1], 598, 1e-9);
  ASSERT_EQ(metrics.failures.size(), 2u);
  EXPECT_EQ(metrics.failures[0].message, "HTTP 400: 120 tokens are too many");
  EXPECT_EQ(metrics.failures[0].count, 2);
}

TEST(ServeReport, TextAndJson) {
  std::vector<RequestRecord> records = some_records();
  records[0].has_usage = false;
  records[2].late_seconds = 1.5;
  const std::vector<double> percents = {99, 99.9};
  ServeMetrics metrics = compute_metrics(records, 2, {}, percents);
  std::string text = format_metrics(metrics, {.request_rate = 4, .max_concurrency = 16}, false, percents);
  for (const char* line :
       {"============ Serving Benchmark Result ============\n", "Successful requests:                     3         \n",
        "Maximum request concurrency:             16        \n",
        "Request throughput (req/s):              1.50      \n", "---------------Time to First Token----------------\n",
        "Mean TTFT (ms):                          266.67    \n",
        "P99.9 E2EL (ms):                         599.80    \n", "Note: 1 answers came without a usage count",
        "Note: 1 requests were sent later than planned, 1.50 s at most", "Failed, 2 times: HTTP 400: 120 tokens",
        "Failed, 1 times: HTTP 429: busy\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_EQ(text.find("goodput"), std::string::npos);
  EXPECT_THAT(format_metrics(metrics, {}, true, percents), HasSubstr("Request goodput (req/s):"));
  json::object object = metrics_json(metrics, false, percents);
  EXPECT_EQ(object.at("completed").as_int64(), 3);
  EXPECT_EQ(object.at("failed").as_int64(), 3);
  EXPECT_TRUE(object.at("request_goodput").is_null());
  EXPECT_NEAR(object.at("p99.9_e2el_ms").as_double(), 599.8, 1e-9);
  EXPECT_TRUE(object.contains("std_itl_ms"));
  EXPECT_EQ(object.at("errors").as_array().size(), 2u);
}

TEST(ServeReport, NothingSucceeded) {
  std::vector<RequestRecord> records(2);
  for (RequestRecord& record : records) record.error = "connect: Connection refused";
  ServeMetrics metrics = compute_metrics(records, 0, {}, {99});
  EXPECT_EQ(metrics.num_completed, 0);
  EXPECT_EQ(metrics.output_per_second, 0);
  EXPECT_THAT(format_metrics(metrics, {}, false, {99}), HasSubstr("Failed, 2 times: connect: Connection refused"));
}

// Bins of a second would say 100 a second of both.
TEST(ServeReport, PeakOutputIsNeverLessThanTheMean) {
  std::vector<RequestRecord> records = {make_record(0, {0.1, 0.2}, 10, 100)};
  EXPECT_DOUBLE_EQ(compute_metrics(records, 0.2, {}, {}).peak_output_per_second, 500);
  records = {make_record(0, {0.9, 1.1}, 10, 200)};
  EXPECT_DOUBLE_EQ(compute_metrics(records, 1.25, {}, {}).peak_output_per_second, 160);
  // Of a longer run the best second counts, wherever the others are.
  records = {make_record(0, {0.5, 2.1, 2.2, 2.3}, 10, 400)};
  EXPECT_DOUBLE_EQ(compute_metrics(records, 4, {}, {}).peak_output_per_second, 300);
}

TEST(ServeReport, CachedTokensAreUnknownUnlessSomeAnswerTells) {
  std::vector<RequestRecord> records = some_records();
  EXPECT_THAT(format_metrics(compute_metrics(records, 2, {}, {}), {}, false, {}),
              HasSubstr("Input tokens from the prefix cache:      unknown"));
  EXPECT_TRUE(metrics_json(compute_metrics(records, 2, {}, {}), false, {}).at("cached_input_tokens").is_null());
  records[1].cached_tokens = 0;
  EXPECT_EQ(metrics_json(compute_metrics(records, 2, {}, {}), false, {}).at("cached_input_tokens").as_int64(), 0);
  records[0].cached_tokens = 7;
  EXPECT_THAT(format_metrics(compute_metrics(records, 2, {}, {}), {}, false, {}),
              HasSubstr("Input tokens from the prefix cache:      7"));
}

TEST(ServeReport, ShortAnswersComeWithAdvice) {
  std::vector<RequestRecord> records = some_records();
  for (RequestRecord& record : records) record.wanted_tokens = 4;
  const ServeMetrics metrics = compute_metrics(records, 2, {}, {});
  EXPECT_EQ(metrics.num_short, 2);
  EXPECT_EQ(metrics_json(metrics, false, {}).at("short_answers").as_int64(), 2);
  EXPECT_THAT(format_metrics(metrics, {}, false, {}),
              HasSubstr("Note: 2 of 3 answers ended before the tokens asked for; --ignore-eos asks the server"));
  EXPECT_THAT(format_metrics(metrics, {.ignores_eos = true}, false, {}),
              HasSubstr("although --ignore-eos was sent along"));
  records = {make_record(0, {0.1}, 1, 4)};
  records[0].wanted_tokens = 4;
  EXPECT_THAT(format_metrics(compute_metrics(records, 2, {}, {}), {}, false, {}), Not(HasSubstr("asked for")));
}

TEST(ServeReport, WhatWasNotFinishedCountsNowhere) {
  std::vector<RequestRecord> records = some_records();
  const ServeMetrics before = compute_metrics(records, 2, {}, {});
  for (int i = 0; i < 4; ++i) records.emplace_back().is_unfinished = true;
  const ServeMetrics metrics = compute_metrics(records, 2, {}, {});
  EXPECT_EQ(metrics.num_unfinished, 4);
  EXPECT_EQ(metrics.num_completed, before.num_completed);
  EXPECT_EQ(metrics.num_failed, before.num_failed);
  EXPECT_EQ(metrics.failures.size(), before.failures.size());
  EXPECT_EQ(metrics.output_per_second, before.output_per_second);
  const std::string text = format_metrics(metrics, {}, false, {});
  EXPECT_THAT(text, HasSubstr("===== Serving Benchmark Result, interrupted ======\n"));
  EXPECT_THAT(text, HasSubstr("Interrupted: 4 of 10 requests were cut off or not sent"));
  EXPECT_THAT(format_metrics(before, {}, false, {}), Not(HasSubstr("nterrupted")));
  EXPECT_TRUE(metrics_json(metrics, false, {}).at("interrupted").as_bool());
  EXPECT_FALSE(metrics_json(before, false, {}).at("interrupted").as_bool());
}

TEST(ServeReport, BadGoodput) {
  EXPECT_THAT(message_of([] { parse_goodput({"ttft:5", "e2el:9", "ttft:7"}); }), HasSubstr("ttft is given twice"));

  for (const char* part : {"", "ttft", "ttft:", "ttft:x", "ttft:-1", "itl:5", "ttft:1e999", "ttft:5ms"}) {
    EXPECT_THAT(message_of([&] { parse_goodput({part}); }), HasSubstr("--goodput")) << part;
  }
}

}  // namespace
}  // namespace sluice::bench
