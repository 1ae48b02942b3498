// One translation unit on purpose, as api/http.cc: the Asio and Beast templates of the client are compiled here.
#include "bench/http_load.h"

#ifdef __SANITIZE_THREAD__
#define BOOST_ASIO_DISABLE_FENCED_BLOCK 1  // the thread sanitizer knows no fences; there is one thread here anyway
#endif

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <set>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include "base/error.h"
#include "bench/sse_reader.h"

namespace sluice::bench {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::awaitable;
using asio::use_awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr size_t kReadBytes = 16 << 10;
constexpr size_t kErrorBodyBytesMax = 64 << 10;
constexpr size_t kAnswerBytesMax = 16 << 20;
constexpr std::chrono::milliseconds kStopPeriod{50};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Clock::duration to_duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::min(seconds, 1e8)));
}

// Every connection is a file; the soft limit is often 1024.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

struct Connection {
  explicit Connection(asio::io_context& io) : stream(io) {}
  beast::tcp_stream stream;
  beast::flat_buffer buffer;
  bool is_used = false;  // has carried an answer before
};

// What went wrong on the way.
struct Failure {
  std::string message;
  bool is_connected = true;  // false: it did not get as far as that
  bool may_retry = false;    // the connection was kept open from before and nothing came back on it
};

std::string describe(const error_code& error, double timeout_seconds) {
  if (error == beast::error::timeout)
    return fmt::format("no complete answer within {:g} s (see --timeout)", timeout_seconds);
  if (error == http::error::end_of_stream || error == http::error::partial_message || error == asio::error::eof) {
    return "the server closed the connection before the answer was complete";
  }
  return error.message();
}

class Client {
 public:
  Client(asio::io_context& io, const HttpTarget& target) : io_(io), target_(target) {
    tcp::resolver resolver(io);
    error_code error;
    for (const auto& entry : resolver.resolve(target.host, target.port, error)) endpoints_.push_back(entry.endpoint());
    if (error) fail(Code::kUnavailable, "cannot reach {}: {}: {}", target.url(), target.host, error.message());
  }

  // Sends a request and hands the answer's bytes to `on_body(status, bytes)` as they come. `on_sent` is called when the
  // request is about to be sent (again), before the connection is made.
  template <typename OnSent, typename OnBody>
  awaitable<std::optional<Failure>> exchange(http::verb verb, std::string path, std::string body,
                                             double timeout_seconds, OnSent& on_sent, OnBody& on_body) {
    http::request<http::string_body> message{verb, target_.base_path + path, 11};
    message.set(http::field::host, target_.authority());
    message.set(http::field::user_agent, "sluice-bench");
    if (!target_.api_key.empty()) message.set(http::field::authorization, "Bearer " + target_.api_key);
    if (verb == http::verb::post) message.set(http::field::content_type, "application/json");
    message.body() = std::move(body);
    message.prepare_payload();
    const Clock::time_point deadline = Clock::now() + to_duration(timeout_seconds);
    for (;;) {
      if (is_cut_off_) co_return Failure{"cut off", false};
      std::unique_ptr<Connection> connection = take_connection();
      active_.insert(connection.get());
      std::optional<Failure> failure =
          co_await attempt(*connection, message, deadline, timeout_seconds, on_sent, on_body);
      active_.erase(connection.get());
      if (!failure) {
        if (connection->stream.socket().is_open()) idle_.push_back(std::move(connection));
        co_return std::nullopt;
      }
      if (!failure->may_retry) co_return failure;
    }
  }

  // Every exchange that runs ends with a failure, and so does every later one.
  void cut_off() {
    is_cut_off_ = true;
    for (Connection* connection : active_) connection->stream.close();
  }

 private:
  std::unique_ptr<Connection> take_connection() {
    if (idle_.empty()) return std::make_unique<Connection>(io_);
    std::unique_ptr<Connection> connection = std::move(idle_.back());
    idle_.pop_back();
    return connection;
  }

  template <typename OnSent, typename OnBody>
  awaitable<std::optional<Failure>> attempt(Connection& connection, http::request<http::string_body>& message,
                                            Clock::time_point deadline, double timeout_seconds, OnSent& on_sent,
                                            OnBody& on_body) {
    error_code error;
    beast::tcp_stream& stream = connection.stream;
    stream.expires_at(deadline);
    on_sent();
    if (!connection.is_used) {
      co_await stream.async_connect(endpoints_, asio::redirect_error(use_awaitable, error));
      if (error) {
        if (error == beast::error::timeout) co_return Failure{describe(error, timeout_seconds), false};
        co_return Failure{fmt::format("connect: {}", error.message()), false};
      }
      error_code ignored;
      stream.socket().set_option(tcp::no_delay(true), ignored);
    }
    co_await http::async_write(stream, message, asio::redirect_error(use_awaitable, error));
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    parser.header_limit(64 << 10);
    if (!error)
      co_await http::async_read_header(stream, connection.buffer, parser, asio::redirect_error(use_awaitable, error));
    if (error) {
      bool may_retry = connection.is_used && error != beast::error::timeout && !parser.got_some();
      co_return Failure{describe(error, timeout_seconds), true, may_retry};
    }
    connection.is_used = true;
    const int status = static_cast<int>(parser.get().result_int());
    char bytes[kReadBytes];
    while (!parser.is_done()) {
      parser.get().body().data = bytes;
      parser.get().body().size = sizeof bytes;
      co_await http::async_read_some(stream, connection.buffer, parser, asio::redirect_error(use_awaitable, error));
      if (error == http::error::need_buffer) error = {};
      if (error) co_return Failure{describe(error, timeout_seconds)};
      size_t count = sizeof bytes - parser.get().body().size;
      if (count > 0 && !on_body(status, std::string_view(bytes, count))) co_return Failure{"the answer is too large"};
    }
    if (!parser.keep_alive()) stream.close();
    on_body(status, {});
    co_return std::nullopt;
  }

  asio::io_context& io_;
  const HttpTarget& target_;
  std::vector<tcp::endpoint> endpoints_;
  std::vector<std::unique_ptr<Connection>> idle_;  // the one used last is taken first
  std::set<Connection*> active_;                   // of the exchanges that run, each of which owns its own
  bool is_cut_off_ = false;
};

class Load {
 public:
  Load(const HttpTarget& target, const LoadOptions& options)
      : options_(options), client_(io_, target), due_(io_), wake_(io_), watch_(io_) {
    result_.records.resize(options.due_seconds.size());
    for (RequestRecord& record : result_.records) record.is_unfinished = true;
  }

  LoadResult run() {
    start_ = Clock::now();
    asio::co_spawn(io_, send_all(), [this](std::exception_ptr error) {
      keep(error);
      end_watch_if_done(--num_tasks_);
    });
    if (options_.should_stop) asio::co_spawn(io_, watch_for_stop(), asio::detached);
    io_.run();
    if (error_) std::rethrow_exception(error_);
    return std::move(result_);
  }

 private:
  // Sends each request when it is due and a place is free.
  awaitable<void> send_all() {
    error_code ignored;
    for (size_t index = 0; index < options_.due_seconds.size(); ++index) {
      const double due = options_.due_seconds[index];
      if (due > seconds_since(start_) && !is_stopped_) {
        due_.expires_at(start_ + to_duration(due));
        co_await due_.async_wait(asio::redirect_error(use_awaitable, ignored));
      }
      while (options_.max_concurrency > 0 && num_running_ >= options_.max_concurrency && !is_stopped_) {
        wake_.expires_at(Clock::time_point::max());
        co_await wake_.async_wait(asio::redirect_error(use_awaitable, ignored));
      }
      if (is_stopped_ || error_) co_return;
      ++num_running_;
      ++num_tasks_;
      asio::co_spawn(io_, send_one(index), [this](std::exception_ptr error) {
        keep(error);
        --num_running_;
        wake_.cancel();
        end_watch_if_done(--num_tasks_);
      });
    }
  }

  awaitable<void> watch_for_stop() {
    error_code ignored;
    while (num_tasks_ > 0 && !is_stopped_) {
      if (options_.should_stop()) {
        is_stopped_ = true;
        result_.duration_seconds = seconds_since(start_);  // nothing is waited for any more
        due_.cancel();
        wake_.cancel();
        client_.cut_off();
        co_return;
      }
      watch_.expires_after(kStopPeriod);
      co_await watch_.async_wait(asio::redirect_error(use_awaitable, ignored));
    }
  }

  void end_watch_if_done(int64_t num_tasks) {
    if (num_tasks == 0) watch_.cancel();
  }

  awaitable<void> send_one(size_t index) {
    RequestRecord& record = result_.records[index];
    std::string body = options_.make_body(index);
    StreamReader stream(record);
    SseReader events;
    std::string error_body;
    bool is_late_known = false;
    Clock::time_point sent;
    auto on_sent = [&] {
      sent = Clock::now();
      record.start_seconds = seconds_since(start_);
      // In a closed loop requests are due whenever there is a place.
      if (!is_late_known && options_.due_seconds.back() > 0) {
        record.late_seconds = record.start_seconds - options_.due_seconds[index];
      }
      is_late_known = true;
    };
    auto on_body = [&](int status, std::string_view bytes) {
      const double seconds = seconds_since(sent);
      if (status == 200) {
        if (bytes.empty()) stream.finish();
        return events.feed(bytes, [&](std::string_view data) { stream.read(data, seconds); });
      }
      if (bytes.empty()) record.error = describe_error_reply(status, error_body);
      error_body.append(bytes.substr(0, kErrorBodyBytesMax - std::min(kErrorBodyBytesMax, error_body.size())));
      return true;
    };
    std::optional<Failure> failure = co_await client_.exchange(http::verb::post, options_.path, std::move(body),
                                                               options_.timeout_seconds, on_sent, on_body);
    if (failure && is_stopped_) {
      record = {};
      record.is_unfinished = true;
      co_return;
    }
    record.is_unfinished = false;
    if (failure && record.ok()) record.error = failure->message;
    result_.duration_seconds = seconds_since(start_);
    ++num_done_;
    num_failed_ += record.ok() ? 0 : 1;
    if (options_.on_progress) options_.on_progress(num_done_, num_failed_);
  }

  void keep(const std::exception_ptr& error) {
    if (error && !error_) error_ = error;
  }

  const LoadOptions& options_;
  asio::io_context io_{1};
  Client client_;
  asio::steady_timer due_, wake_, watch_;  // for: the next request's time, a free place, the next look at should_stop
  Clock::time_point start_;
  LoadResult result_;
  int64_t num_running_ = 0;  // requests
  int64_t num_tasks_ = 1;    // those and the sender of them all
  bool is_stopped_ = false;
  size_t num_done_ = 0, num_failed_ = 0;
  std::exception_ptr error_;
};

}  // namespace

std::string HttpTarget::authority() const {
  return fmt::format("{}:{}", host.find(':') == std::string::npos ? host : "[" + host + "]", port);
}

std::string HttpTarget::url() const { return "http://" + authority() + base_path; }

HttpTarget parse_url(const std::string& url) {
  std::string_view rest = url;
  if (rest.starts_with("https://")) {
    fail(Code::kInvalidArgument, "{}: only http:// is supported; measure behind the proxy that ends TLS", url);
  }
  if (rest.starts_with("http://")) rest.remove_prefix(7);
  HttpTarget target;
  size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view authority = rest.substr(0, slash);
  target.base_path = std::string(rest.substr(slash));
  while (target.base_path.ends_with('/')) target.base_path.pop_back();
  if (target.base_path.ends_with("/v1")) target.base_path.resize(target.base_path.size() - 3);
  size_t colon = authority.rfind(':');
  if (authority.starts_with('[')) {  // an IPv6 address
    size_t end = std::min(authority.find(']'), authority.size());
    target.host = std::string(authority.substr(1, end - 1));
    colon = authority.find(':', end);
  } else {
    target.host = std::string(authority.substr(0, colon));
  }
  target.port = colon == std::string_view::npos ? "80" : std::string(authority.substr(colon + 1));
  bool port_is_number = !target.port.empty() && target.port.size() <= 5 &&
                        target.port.find_first_not_of("0123456789") == std::string::npos;
  // Nothing that could end the header it goes into.
  bool has_blank =
      std::any_of(url.begin(), url.end(), [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == 0x7f; });
  if (target.host.empty() || !port_is_number || has_blank || rest.find("://") != std::string_view::npos) {
    fail(Code::kInvalidArgument, "'{}' is no URL of a server; write it like http://127.0.0.1:8000", url);
  }
  return target;
}

HttpAnswer fetch(const HttpTarget& target, const std::string& method, const std::string& path, const std::string& body,
                 double timeout_seconds) {
  asio::io_context io{1};
  Client client(io, target);
  HttpAnswer answer;
  std::optional<Failure> failure;
  std::exception_ptr thrown;
  auto on_sent = [] {};
  auto on_body = [&](int status, std::string_view bytes) {
    answer.status = status;
    answer.body.append(bytes);
    return answer.body.size() <= kAnswerBytesMax;
  };
  auto run = [&]() -> awaitable<void> {
    failure = co_await client.exchange(method == "GET" ? http::verb::get : http::verb::post, path, body,
                                       timeout_seconds, on_sent, on_body);
  };
  asio::co_spawn(io, run, [&](std::exception_ptr error) { thrown = error; });
  io.run();
  if (thrown) std::rethrow_exception(thrown);
  if (failure && failure->is_connected) {
    fail(Code::kUnavailable, "{}{}: {}; is it an OpenAI-compatible server?", target.url(), path, failure->message);
  }
  if (failure) {
    fail(Code::kUnavailable, "cannot reach {}: {}; is the server running there?", target.url(), failure->message);
  }
  return answer;
}

LoadResult run_load(const HttpTarget& target, const LoadOptions& options) {
  if (options.due_seconds.empty()) return {};
  raise_file_limit();
  return Load(target, options).run();
}

}  // namespace sluice::bench
