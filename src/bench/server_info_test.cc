#include "bench/server_info.h"

#include <gtest/gtest.h>

namespace sluice::bench {
namespace {

TEST(ServedModel, TheOneAskedForOrTheFirst) {
  const json::value body = json::parse(
      R"({"data":[{"no":"id"},{"id":"a","root":"/models/a","max_model_len":2048},)"
      R"({"id":"b","meta":{"n_params":1100048384,"size":636728384}}]})");
  ServedModel first = find_served_model(body, "");
  EXPECT_EQ(first.id, "a");
  EXPECT_EQ(first.root, "/models/a");
  EXPECT_EQ(first.max_model_len, 2048);
  EXPECT_EQ(first.weight_bytes, 0);
  ServedModel second = find_served_model(body, "b");
  EXPECT_EQ(second.id, "b");
  EXPECT_EQ(second.num_parameters, 1100048384);
  EXPECT_EQ(second.weight_bytes, 636728384);
  EXPECT_EQ(find_served_model(body, "c").id, "");
}

TEST(ServedModel, OtherShapesAreNoModel) {
  for (const char* text : {"null", "[]", "{}", R"({"data":3})", R"({"data":[]})", R"({"data":[1,"a",{"id":7}]})"}) {
    EXPECT_EQ(find_served_model(json::parse(text), "").id, "") << text;
  }
  const json::value odd =
      json::parse(R"({"data":[{"id":"a","max_model_len":"x","meta":{"size":-5,"n_params":1.5}}]})");
  EXPECT_EQ(find_served_model(odd, "").max_model_len, 0);
  EXPECT_EQ(find_served_model(odd, "").weight_bytes, 0);
  EXPECT_EQ(find_served_model(odd, "").num_parameters, 0);
}

TEST(Counters, SumOfTheModelsOwn) {
  const ServedModel model{.id = "a", .root = "/models/a"};
  const char* text =
      "# HELP steps of the engine\n# TYPE steps counter\n"
      "steps{engine=\"0\",model_name=\"a\"} 12\nsteps{engine=\"1\",model_name=\"a\"} 3.5 1700000000\n"
      "steps{model_name=\"/models/a\"} 1e2\nsteps{model_name=\"b\"} 1000\n"
      "steps_total{model_name=\"a\"} 7\nplain 4\nother_model_name{x_model_name=\"b\"} 9\nbroken{ 5\nempty \ninf +Inf\n";
  EXPECT_EQ(find_counter(text, "steps", model), 115.5);
  EXPECT_EQ(find_counter(text, "steps_total", model), 7);
  EXPECT_EQ(find_counter(text, "plain", model), 4);
  EXPECT_EQ(find_counter(text, "other_model_name", model), 9);
  for (const char* name : {"step", "broken", "empty", "inf", "none"}) {
    EXPECT_EQ(find_counter(text, name, model), std::nullopt) << name;
  }
  EXPECT_EQ(find_counter("", "steps", model), std::nullopt);
}

TEST(Counters, Steps) {
  const ServedModel model{.id = "a"};
  const std::string count = "vllm:iteration_tokens_total_count{model_name=\"a\"} 20\n";
  const std::string sum = "vllm:iteration_tokens_total_sum{model_name=\"a\"} 512\n";
  std::optional<StepCounts> counts = find_step_counts(count + sum, model);
  ASSERT_TRUE(counts);
  EXPECT_EQ(counts->num_steps, 20);
  EXPECT_EQ(counts->num_tokens, 512);
  EXPECT_FALSE(find_step_counts(count, model));
  EXPECT_FALSE(find_step_counts(sum, model));
}

TEST(Loopback, Names) {
  for (const char* host : {"127.0.0.1", "127.8.0.2", "localhost", "::1"}) EXPECT_TRUE(is_loopback(host)) << host;
  for (const char* host : {"10.0.0.1", "localhost.example.org", "host", ""}) EXPECT_FALSE(is_loopback(host)) << host;
}

}  // namespace
}  // namespace sluice::bench
