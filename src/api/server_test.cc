// The whole server on a loopback port with a fake model: HTTP itself, routes, keys, disconnects, draining.
#include "api/server.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "api/test_client.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "serve/fake_model.h"

namespace sluice::api {
namespace {

constexpr char kSlowStream[] = R"({"prompt":"slow","max_tokens":500,"stream":true})";

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() { log::configure(log::Level::kError, log::Format::kText); }

  void start(ServerOptions options = {}) {
    model = std::make_shared<serve::FakeModel>("fake", &repository.metrics());
    repository.add({"fake", "org/alias"}, model);
    options.http.port = 0;
    server.emplace(std::move(options), repository);
    server->start();
  }
  TestClient connect() { return TestClient(server->port()); }
  TestReply post(const std::string& path, const std::string& body, const std::string& headers = "") {
    TestClient client = connect();
    client.post(path, body, headers);
    return client.read_reply();
  }
  TestReply get(const std::string& path, const std::string& headers = "", const std::string& method = "GET") {
    TestClient client = connect();
    client.get(path, headers, method);
    return client.read_reply(method == "HEAD");
  }
  TestReply raw(const std::string& bytes) {
    TestClient client = connect();
    client.send(bytes);
    return client.read_reply();
  }
  template <typename Condition>
  static bool eventually(Condition condition) {
    int64_t end_us = monotonic_us() + 20'000'000;
    while (!condition()) {
      if (monotonic_us() > end_us) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  static int num_threads() {
    int count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) ++count;
    return count;
  }

  serve::Repository repository;
  std::shared_ptr<serve::FakeModel> model;
  std::optional<Server> server;
};

TEST_F(ServerTest, AnswersOnTheSmallRoutes) {
  start();
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(get("/health").body, "");
  EXPECT_EQ(get("/ready").status, 200);
  EXPECT_EQ(get("/ping").status, 200);
  EXPECT_EQ(post("/ping", "").status, 200);
  EXPECT_NE(get("/version").body.find("\"version\""), std::string::npos);
  EXPECT_NE(get("/metrics").body.find("http_requests_total"), std::string::npos);
  EXPECT_EQ(get("/load").body, "{\"server_load\":0}");
  EXPECT_NE(get("/v1/models").body.find("org/alias"), std::string::npos);
  EXPECT_EQ(get("/v1/models/org/alias").status, 200);
  EXPECT_EQ(get("/v1/models/org%2Falias").status, 200);
  EXPECT_EQ(get("/v1/models/none").status, 404);
  model->set_healthy(false);
  EXPECT_EQ(get("/health").status, 503);
  EXPECT_EQ(get("/ready").status, 503);
}

TEST_F(ServerTest, UnknownPathsAndMethods) {
  start();
  EXPECT_EQ(get("/nothing").status, 404);
  TestReply reply = get("/v1/completions");
  EXPECT_EQ(reply.status, 405);
  EXPECT_TRUE(reply.has("Allow: POST, OPTIONS"));
  EXPECT_EQ(get("/v1/completions", "", "OPTIONS").status, 204);
  reply = get("/v1/models", "", "HEAD");
  EXPECT_EQ(reply.status, 200);
  EXPECT_FALSE(reply.has("Content-Length: 0"));
}

TEST_F(ServerTest, MalformedHttp) {
  start();
  EXPECT_EQ(raw("nonsense\r\n\r\n").status, 400);
  EXPECT_EQ(raw("GET /health HTTP/3.7\r\n\r\n").status, 505);
  EXPECT_EQ(raw("POST /tokenize HTTP/1.1\r\nContent-Length: -5\r\n\r\n").status, 400);
  EXPECT_EQ(
      raw("POST /tokenize HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").status,
      400);
  EXPECT_EQ(raw("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").status, 400);
  // A body whose end cannot be known: what follows it is no request.
  for (const char* coding : {"gzip", "gzip, chunked", "chunked, identity"}) {
    TestReply refused = raw(std::string("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: ") + coding +
                            "\r\n\r\nGET /health HTTP/1.1\r\n\r\n");
    EXPECT_TRUE(refused.status == 501 || refused.status == 400) << coding << refused.status;
    EXPECT_TRUE(refused.has("Connection: close")) << coding;
  }
  EXPECT_EQ(raw("GET /health HTTP/1.1\r\nBad Header: 1\r\n\r\n").status, 400);
  EXPECT_EQ(raw("GET /" + std::string(70'000, 'a') + " HTTP/1.1\r\n\r\n").status, 431);
  EXPECT_EQ(raw("GET /health HTTP/1.1\r\nX: " + std::string(70'000, 'a') + "\r\n\r\n").status, 431);
  EXPECT_EQ(raw(std::string("\0\0\0\0\r\n\r\n", 8)).status, 400);
  TestReply reply = raw("nonsense\r\n\r\n");
  EXPECT_NE(reply.body.find("BadRequestError"), std::string::npos);
  EXPECT_TRUE(reply.has("Connection: close"));
  EXPECT_EQ(get("/health").status, 200);
}

TEST_F(ServerTest, BodiesAreBounded) {
  ServerOptions options;
  options.http.body_bytes_max = 1000;
  start(std::move(options));
  EXPECT_EQ(post("/tokenize", std::string(1001, ' ')).status, 413);
  EXPECT_EQ(raw("POST /tokenize HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n").status, 413);
  std::string chunk = "190\r\n" + std::string(400, ' ') + "\r\n";
  EXPECT_EQ(
      raw("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + chunk + chunk + "0\r\n\r\n")
          .status,
      413);
}

TEST_F(ServerTest, ChunkedBodiesAndExpect) {
  start();
  TestReply reply =
      raw("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"pro\r\nd;x=1\r\nmpt\":\"abc\"} "
          " \r\n0\r\n\r\n");
  EXPECT_EQ(reply.status, 200);
  EXPECT_NE(reply.body.find("\"tokens\":[256,97,98,99]"), std::string::npos) << reply.body;

  TestClient client = connect();
  client.send("POST /tokenize HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n");
  EXPECT_EQ(client.read_reply(true).status, 100);
  client.send("{\"prompt\":\"a\"}");
  EXPECT_EQ(client.read_reply().status, 200);
}

TEST_F(ServerTest, RequestsArriveByteByByte) {
  start();
  TestClient client = connect();
  for (char c : std::string("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}")) {
    ASSERT_TRUE(client.send(std::string(1, c)));
  }
  EXPECT_EQ(client.read_reply().status, 200);
}

TEST_F(ServerTest, PipelinedRequestsAreAnsweredInOrder) {
  start();
  TestClient client = connect();
  std::string bytes;
  for (int i = 0; i < 50; ++i) {
    bytes +=
        "GET /version HTTP/1.1\r\n\r\nPOST /v1/completions HTTP/1.1\r\nContent-Length: "
        "15\r\n\r\n{\"prompt\":\"hi\"}";
  }
  client.send(bytes);
  for (int i = 0; i < 50; ++i) {
    EXPECT_NE(client.read_reply().body.find("version"), std::string::npos);
    EXPECT_NE(client.read_reply().body.find("Hello!"), std::string::npos);
  }
}

TEST_F(ServerTest, KeepAliveAndClose) {
  start();
  TestClient client = connect();
  client.get("/version");
  EXPECT_TRUE(client.read_reply().has("Connection: keep-alive"));
  client.get("/version", "Connection: close\r\n");
  EXPECT_TRUE(client.read_reply().has("Connection: close"));
  EXPECT_TRUE(client.is_closed_by_server());
  TestReply reply = raw("GET /version HTTP/1.0\r\n\r\n");
  EXPECT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.has("Connection: close"));
  // A stream to HTTP/1.0 has no chunks.
  std::string body = R"({"prompt":"hi","stream":true})";
  reply = raw("POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  EXPECT_FALSE(reply.has("chunked"));
  EXPECT_TRUE(reply.body.starts_with("data: {"));
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(ServerTest, SlowRequestsAreCutOff) {
  ServerOptions options;
  options.http.header_ms_max = 50;
  options.http.body_ms_max = 50;
  options.http.idle_ms_max = 50;
  start(std::move(options));
  for (const char* beginning : {"", "GET /health HT", "POST /tokenize HTTP/1.1\r\nContent-Length: 10\r\n\r\n{"}) {
    TestClient client = connect();
    client.send(beginning);
    EXPECT_EQ(client.read_reply().status, 0) << beginning;
  }
  EXPECT_TRUE(eventually([&] { return server->http().num_connections() == 0; }));
}

TEST_F(ServerTest, AClientThatDoesNotReadIsDropped) {
  ServerOptions options;
  options.http.write_ms_max = 100;
  start(std::move(options));
  TestClient client = connect();
  // Replies of many megabytes that nobody reads.
  std::string body = "{\"prompt\":\"" + std::string(200'000, 'a') + "\",\"return_token_strs\":true}";
  for (int i = 0; i < 40 && client.is_connected(); ++i) {
    if (!client.send("POST /tokenize HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n")) break;
    if (!client.send(body)) break;
  }
  EXPECT_TRUE(eventually([&] { return server->http().num_connections() == 0; }));
  EXPECT_EQ(get("/health").status, 200);
}

TEST_F(ServerTest, DisconnectCancelsAStream) {
  start();
  TestClient client = connect();
  client.post("/v1/completions", kSlowStream);
  ASSERT_TRUE(client.read_until("data: "));
  EXPECT_EQ(get("/load").body, "{\"server_load\":1}");
  client.close();
  EXPECT_TRUE(eventually([&] { return model->num_cancelled() == 1 && model->num_running() == 0; }));
  EXPECT_TRUE(eventually([&] { return server->http().num_active() == 0; }));
  EXPECT_EQ(get("/load").body, "{\"server_load\":0}");
}

TEST_F(ServerTest, DisconnectCancelsARequestThatIsNotStreamed) {
  start();
  TestClient client = connect();
  client.post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"slow"}]})");
  ASSERT_TRUE(eventually([&] { return model->num_running() == 1; }));
  client.close();
  EXPECT_TRUE(eventually([&] { return model->num_cancelled() == 1 && model->num_running() == 0; }));
}

TEST_F(ServerTest, ManyStreamsWithRandomDisconnects) {
  start();
  std::vector<std::thread> clients;
  for (int c = 0; c < 16; ++c) {
    clients.emplace_back([this, c] {
      for (int i = 0; i < 5; ++i) {
        TestClient client = connect();
        client.post("/v1/completions", R"({"prompt":"slow","max_tokens":20,"n":1,"stream":true})");
        if ((c + i) % 3 == 0) {
          client.read_until("data: ");
          continue;
        }
        TestReply reply = client.read_reply();
        EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(eventually([&] { return model->num_running() == 0 && server->http().num_active() == 0; }));
}

TEST_F(ServerTest, ATimeOutEndsARequest) {
  ServerOptions options;
  options.request_timeout_ms = 50;
  start(std::move(options));
  TestReply reply = post("/v1/completions", R"({"prompt":"slow","max_tokens":500})");
  EXPECT_EQ(reply.status, 504);
  EXPECT_NE(reply.body.find("deadline"), std::string::npos);
}

TEST_F(ServerTest, AThousandIdleConnectionsCostNoThread) {
  start();
  EXPECT_EQ(get("/health").status, 200);
  int before = num_threads();
  std::vector<TestClient> idle;
  for (int i = 0; i < 1000; ++i) {
    idle.push_back(connect());
    ASSERT_TRUE(idle.back().is_connected());
  }
  ASSERT_TRUE(eventually([&] { return server->http().num_connections() >= 1000; }));
  EXPECT_EQ(num_threads(), before);
  EXPECT_EQ(post("/v1/completions", R"({"prompt":"hi"})").status, 200);
  for (int i = 0; i < 1000; i += 100) {
    idle[static_cast<size_t>(i)].get("/health");
    EXPECT_EQ(idle[static_cast<size_t>(i)].read_reply().status, 200);
  }
}

TEST_F(ServerTest, EveryRouteButTwoNeedsTheKey) {
  ServerOptions options;
  options.api_keys = {"first", "second"};
  start(std::move(options));
  const std::pair<const char*, const char*> guarded[] = {
      {"GET", "/v1/models"},       {"GET", "/v1/models/fake"},
      {"POST", "/v1/completions"}, {"POST", "/v1/chat/completions"},
      {"POST", "/tokenize"},       {"POST", "/detokenize"},
      {"GET", "/metrics"},         {"GET", "/load"},
      {"GET", "/ready"},           {"GET", "/ping"},
      {"GET", "/nothing"},         {"GET", "/health/"},
      {"POST", "/health"},         {"OPTIONS", "/v1/models"},
      {"HEAD", "/metrics"}};
  for (const auto& [method, path] : guarded) {
    EXPECT_EQ(get(path, "", method).status, 401) << method << " " << path;
    EXPECT_EQ(get(path, "Authorization: Bearer wrong\r\n", method).status, 401) << path;
    EXPECT_EQ(get(path, "Authorization: first\r\n", method).status, 401) << path;
    EXPECT_NE(get(path, "authorization: bearer second\r\n", method).status, 401) << path;
  }
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(get("/version").status, 200);
  TestReply reply = post("/v1/completions", R"({"prompt":"hi"})");
  EXPECT_NE(reply.body.find("\"code\":\"invalid_api_key\""), std::string::npos);
  EXPECT_EQ(post("/v1/completions", R"({"prompt":"hi"})", "Authorization: Bearer first\r\n").status, 200);
}

TEST_F(ServerTest, Cors) {
  start();
  TestReply reply = get("/v1/completions",
                        "Origin: http://page\r\nAccess-Control-Request-Method: "
                        "POST\r\nAccess-Control-Request-Headers: authorization\r\n",
                        "OPTIONS");
  EXPECT_EQ(reply.status, 204);
  EXPECT_TRUE(reply.has("Access-Control-Allow-Origin: *"));
  EXPECT_TRUE(reply.has("Access-Control-Allow-Headers: authorization"));
  EXPECT_TRUE(get("/v1/models", "Origin: http://page\r\n").has("Access-Control-Allow-Origin: *"));
  EXPECT_TRUE(get("/nothing", "Origin: http://page\r\n").has("Access-Control-Allow-Origin: *"));
  EXPECT_FALSE(get("/v1/models").has("Access-Control"));
}

TEST_F(ServerTest, CorsOfChosenOrigins) {
  ServerOptions options;
  options.allowed_origins = {"http://a"};
  start(std::move(options));
  EXPECT_TRUE(get("/v1/models", "Origin: http://a\r\n").has("Access-Control-Allow-Origin: http://a"));
  EXPECT_FALSE(get("/v1/models", "Origin: http://b\r\n").has("Access-Control-Allow-Origin"));
  EXPECT_EQ(get("/v1/models", "Origin: http://b\r\nAccess-Control-Request-Method: GET\r\n", "OPTIONS").status, 403);
}

TEST_F(ServerTest, BadJsonIsA400) {
  start();
  std::string deep = std::string(100'000, '[');
  for (const std::string& body :
       {std::string(""), std::string("{"), std::string("[]"), std::string("\"x\""),
        std::string("{\"prompt\":\"\xff\"}"), std::string("{\"prompt\":\"x\",\"temperature\":NaN}"),
        std::string("{\"prompt\":\"x\",\"temperature\":1e999}"), "{\"prompt\":" + deep + "}", deep,
        std::string("{\"prompt\":\"x\"} trailing")}) {
    TestReply reply = post("/v1/completions", body);
    EXPECT_EQ(reply.status, 400) << body.substr(0, 60);
    EXPECT_NE(reply.body.find("\"error\""), std::string::npos);
  }
  struct Case {
    const char* body;
    const char* field;
  };
  const Case named[] = {{"{\"prompt\":\"\xff\"}", "\"prompt\""},
                        {"{\"a\":[{\"b\":1}],\"top_p\":NaN}", "\"top_p\""},
                        {"{\"a\":{\"b\":\"\\\"c\\\":\"},\"top_p\":1e999,\"d\":1}", "\"top_p\""},
                        {"{\"messages\":[{\"role\":\"\\ud800\"}]}", "\"messages\""},
                        {"[1", "null"},
                        {"{\"a\":1} x", "null"},
                        {"{", "null"}};
  for (const Case& c : named) {
    TestReply reply = post("/v1/completions", c.body);
    EXPECT_NE(reply.body.find(std::string("\"param\":") + c.field), std::string::npos) << c.body << reply.body;
  }
  // What was sent is quoted in part only, and in whole characters.
  std::string name;
  for (int i = 0; i < 100'000; ++i) name += "\u20ac";
  TestReply reply = post("/v1/completions", R"({"prompt":"x","model":")" + name + R"("})");
  EXPECT_EQ(reply.status, 404);
  EXPECT_LT(reply.body.size(), 3000u);
  EXPECT_NE(reply.body.find("\u20ac... ("), std::string::npos) << reply.body.substr(1800);
  EXPECT_LT(post("/v1/completions", "{\"" + name + "\":NaN}").body.size(), 3000u);
  EXPECT_EQ(post("/v1/completions", R"({"prompt":"full"})").status, 429);
  EXPECT_TRUE(post("/v1/completions", R"({"prompt":"full"})").has("Retry-After: 1"));
}

TEST_F(ServerTest, DrainsRunningRequestsAndRefusesNewOnes) {
  start();
  TestClient running = connect(), idle = connect();
  idle.get("/health");
  EXPECT_EQ(idle.read_reply().status, 200);
  running.post("/v1/completions", R"({"prompt":"slow","max_tokens":300,"stream":true})");
  ASSERT_TRUE(running.read_until("data: "));
  bool all_done = false;
  std::thread drainer([&] { all_done = server->drain(); });
  ASSERT_TRUE(eventually([&] { return get("/ready").status == 503; }));
  idle.post("/v1/completions", R"({"prompt":"hi"})");
  TestReply refused = idle.read_reply();
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.has("Retry-After: 5"));
  TestReply reply = running.read_reply();
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
  drainer.join();
  EXPECT_TRUE(all_done);
  EXPECT_EQ(model->num_cancelled(), 0);
}

TEST_F(ServerTest, DrainingGivesUpAfterItsTime) {
  ServerOptions options;
  options.drain_timeout_ms = 20;
  start(std::move(options));
  TestClient running = connect();
  running.post("/v1/completions", kSlowStream);
  ASSERT_TRUE(running.read_until("data: "));
  EXPECT_FALSE(server->drain());
  EXPECT_EQ(model->num_cancelled(), 1);
  EXPECT_TRUE(running.is_closed_by_server());
}

TEST_F(ServerTest, StoppingMidStreamIsClean) {
  start();
  std::vector<TestClient> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(connect());
    clients.back().post("/v1/completions", kSlowStream);
  }
  ASSERT_TRUE(eventually([&] { return model->num_running() == 8; }));
  server.reset();
  EXPECT_TRUE(eventually([&] { return model->num_running() == 0; }));
}

TEST_F(ServerTest, SaysWhatIsWrongAtStart) {
  start();
  auto message_of = [&](HttpOptions http) {
    ServerOptions options;
    options.http = std::move(http);
    try {
      Server(options, repository).start();
    } catch (const Error& error) {
      return error.message();
    }
    return std::string("no error");
  };
  HttpOptions taken;
  taken.port = server->port();
  EXPECT_NE(message_of(taken).find("cannot listen"), std::string::npos);
  HttpOptions no_certificate;
  no_certificate.port = 0;
  no_certificate.ssl_certfile = "/does/not/exist.pem";
  EXPECT_NE(message_of(no_certificate).find("--ssl-certfile"), std::string::npos);
  HttpOptions nowhere;
  nowhere.host = "999.999.0.1";
  EXPECT_NE(message_of(nowhere).find("cannot"), std::string::npos);
}

}  // namespace
}  // namespace sluice::api
