#include "bench/http_load.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "bench/message_of_for_test.h"

namespace sluice::bench {
namespace {

using testing::HasSubstr;

// Takes connections one after the other; the first `num_answered` requests get an answer at once, others never.
class SlowServer {
 public:
  explicit SlowServer(int num_answered) : listener_(socket(AF_INET, SOCK_STREAM, 0)), num_left_(num_answered) {
    sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(listener_, generic, size), 0);
    EXPECT_EQ(listen(listener_, 64), 0);
    EXPECT_EQ(getsockname(listener_, generic, &size), 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~SlowServer() {
    shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    for (std::thread& thread : threads_) thread.join();
    close(listener_);
  }
  HttpTarget target() const { return parse_url("http://127.0.0.1:" + std::to_string(port_)); }
  int num_requests() const { return num_requests_; }

 private:
  void accept_all() {
    for (;;) {
      const int connection = accept(listener_, nullptr, nullptr);
      if (connection < 0) return;
      threads_.emplace_back([this, connection] { serve(connection); });
    }
  }
  // Until the client closes the connection.
  void serve(int connection) {
    char bytes[4096];
    while (recv(connection, bytes, sizeof bytes, 0) > 0) {
      ++num_requests_;
      if (--num_left_ < 0) continue;
      const std::string body = "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: [DONE]\n\n";
      const std::string answer =
          "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
      send(connection, answer.data(), answer.size(), MSG_NOSIGNAL);
    }
    close(connection);
  }

  const int listener_;
  std::atomic<int> num_left_, num_requests_{0};
  uint16_t port_ = 0;
  std::thread acceptor_;
  std::vector<std::thread> threads_;
};

LoadOptions options_for(size_t num_requests, int64_t concurrency) {
  LoadOptions options{.path = "/v1/completions",
                      .due_seconds = std::vector<double>(num_requests),
                      .max_concurrency = concurrency};
  options.make_body = [](size_t) { return std::string("{}"); };
  return options;
}

int64_t count_unfinished(const LoadResult& result) {
  int64_t count = 0;
  for (const RequestRecord& record : result.records) {
    EXPECT_TRUE(record.error.empty()) << record.error;
    count += record.is_unfinished ? 1 : 0;
  }
  return count;
}

TEST(HttpLoad, WithoutAWishToStopAllIsDone) {
  SlowServer server(6);
  LoadOptions options = options_for(6, 2);
  int num_looks = 0;
  options.should_stop = [&] { return ++num_looks < 0; };
  EXPECT_EQ(count_unfinished(run_load(server.target(), options)), 0);
  EXPECT_GE(num_looks, 1);
}

// Requests that wait for an answer, for a place and for their time.
TEST(HttpLoad, StoppingCutsOffWhatRunsAndSendsNothingMore) {
  SlowServer server(3);
  LoadOptions options = options_for(8, 2);
  options.due_seconds.back() = 3600;
  size_t num_done = 0;
  options.on_progress = [&](size_t done, size_t) { num_done = done; };
  options.should_stop = [&] { return num_done == 3 && server.num_requests() == 5; };
  const LoadResult result = run_load(server.target(), options);
  ASSERT_EQ(result.records.size(), 8u);
  EXPECT_EQ(count_unfinished(result), 5);
  EXPECT_EQ(server.num_requests(), 5);
  EXPECT_LT(result.duration_seconds, 60);

  LoadOptions late = options_for(2, 0);
  late.due_seconds = {0, 3600};
  num_done = 0;
  SlowServer quick(1);
  late.on_progress = options.on_progress;
  late.should_stop = [&] { return num_done == 1; };
  EXPECT_EQ(count_unfinished(run_load(quick.target(), late)), 1);
}

TEST(HttpLoad, StoppingBeforeAnythingIsSent) {
  SlowServer server(0);
  LoadOptions options = options_for(3, 1);
  options.due_seconds = {3600, 3600, 3600};
  options.should_stop = [] { return true; };
  const LoadResult result = run_load(server.target(), options);
  EXPECT_EQ(count_unfinished(result), 3);
  EXPECT_LT(result.duration_seconds, 1);
}

TEST(HttpLoad, Urls) {
  HttpTarget target = parse_url("http://127.0.0.1:8000/v1/");
  EXPECT_EQ(target.host, "127.0.0.1");
  EXPECT_EQ(target.port, "8000");
  EXPECT_EQ(target.base_path, "");
  EXPECT_EQ(parse_url("localhost:81/a").url(), "http://localhost:81/a");
  EXPECT_EQ(parse_url("http://host").port, "80");
  EXPECT_EQ(parse_url("http://[::1]:9/x/").url(), "http://[::1]:9/x");
  for (const char* url :
       {"", "http://", "http://:80", "http://h:p", "http://h:123456", "h/a b", "ftp://h", "http://h:80\r\nX: y"}) {
    EXPECT_THAT(message_of([&] { parse_url(url); }), HasSubstr("is no URL")) << url;
  }
  EXPECT_THAT(message_of([] { parse_url("https://h"); }), HasSubstr("only http://"));
}

TEST(HttpLoad, NobodyListens) {
  HttpTarget target = parse_url("http://127.0.0.1:1");
  EXPECT_THAT(message_of([&] { fetch(target, "GET", "/v1/models", "", 5); }),
              HasSubstr("cannot reach http://127.0.0.1:1: connect: Connection refused"));
  LoadOptions options{.path = "/v1/completions", .due_seconds = {0, 0, 0}, .max_concurrency = 2};
  size_t num_failed = 0;
  options.make_body = [](size_t) { return std::string("{}"); };
  options.on_progress = [&](size_t, size_t failed) { num_failed = failed; };
  LoadResult result = run_load(target, options);
  ASSERT_EQ(result.records.size(), 3u);
  for (const RequestRecord& record : result.records) EXPECT_THAT(record.error, HasSubstr("Connection refused"));
  EXPECT_EQ(num_failed, 3u);
}

}  // namespace
}  // namespace sluice::bench
