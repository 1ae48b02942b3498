// One translation unit on purpose: the Asio and Beast templates are compiled here and nowhere else.
#include "api/http.h"

#ifdef __SANITIZE_THREAD__
#define BOOST_ASIO_DISABLE_FENCED_BLOCK 1  // the thread sanitizer knows no fences; Asio's locks order everything here
#endif

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_set>
#include <utility>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

namespace sluice::api {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::awaitable;
using asio::use_awaitable;
using boost::system::error_code;
using std::chrono::milliseconds;
using AnySocket = asio::generic::stream_protocol::socket;
using TlsStream = asio::ssl::stream<AnySocket&>;
using SteadyClock = std::chrono::steady_clock;

constexpr size_t kPieceBytes = 64 << 10;       // written at once; the write time-out is for one
constexpr size_t kReadBytes = 8 << 10;         // an idle connection's buffer
constexpr size_t kPipelinedBytesMax = 64 << 10;
constexpr int64_t kLingerMs = 2000;            // for a refused client to stop sending and read the answer
constexpr size_t kLingerBytesMax = 16 << 20;

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [&](char x, char y) { return lower(x) == lower(y); });
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string percent_decode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
      decoded.push_back(static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2])));
      i += 2;
    } else {
      decoded.push_back(text[i]);
    }
  }
  return decoded;
}

// "Fri, 20 Nov 2026 21:55:08 GMT"
std::string http_date() {
  std::time_t now = static_cast<std::time_t>(unix_seconds());
  std::tm utc{};
  gmtime_r(&now, &utc);
  static const char* const kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static const char* const kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  return fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} GMT", kDays[utc.tm_wday], utc.tm_mday, kMonths[utc.tm_mon],
                     utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

HttpRequest to_request(http::request<http::string_body>&& message, const std::string& peer) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  std::string_view target(message.target().data(), message.target().size());
  if (size_t scheme = target.find("://"); scheme != std::string_view::npos && !target.starts_with('/')) {
    size_t slash = target.find('/', scheme + 3);  // absolute form, as to a proxy
    target = slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
  }
  size_t question = target.find('?');
  request.path = percent_decode(target.substr(0, question));
  if (question != std::string_view::npos) request.query = std::string(target.substr(question + 1));
  for (const auto& field : message) {
    request.headers.push_back({std::string(field.name_string()), std::string(field.value())});
  }
  request.body = std::move(message.body());
  request.peer = peer;
  request.received_us = monotonic_us();
  return request;
}

// What all connections share.
struct Shared {
  HttpOptions options;
  HttpHooks hooks;
  std::optional<asio::ssl::context> tls;
  asio::thread_pool* workers = nullptr;
  std::atomic<int64_t> num_connections{0};
  std::atomic<bool> closing{false};
  std::mutex mutex;
  std::condition_variable idle;
  int64_t num_active = 0;

  void begin_request() {
    std::lock_guard lock(mutex);
    ++num_active;
  }
  void end_request() {
    {
      std::lock_guard lock(mutex);
      --num_active;
    }
    idle.notify_all();
  }
};

class Connection;

// What a Wake holds: the way back to a connection that may have gone. The lock makes sure that nobody posts to an
// io_context that is being destroyed.
struct WakeTarget {
  std::mutex mutex;
  Connection* connection = nullptr;  // null: gone
  bool is_pending = false;
};

// Every WakeTarget there is, so that stop() can cut them all.
struct WakeTargets {
  std::mutex mutex;
  std::unordered_set<std::shared_ptr<WakeTarget>> targets;
};

// One client. All members are touched on its strand only, except the WakeTarget.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Shared& shared, WakeTargets& wakes, AnySocket socket, std::string peer)
      : shared_(shared), wakes_(wakes), socket_(std::move(socket)), peer_(std::move(peer)),
        event_(socket_.get_executor()), watchdog_(socket_.get_executor()) {
    if (shared_.tls) tls_.emplace(socket_, *shared_.tls);
    wake_->connection = this;
    ++shared_.num_connections;
    std::lock_guard lock(wakes_.mutex);
    wakes_.targets.insert(wake_);
  }

  ~Connection() {
    {
      std::lock_guard lock(wake_->mutex);
      wake_->connection = nullptr;
    }
    {
      std::lock_guard lock(wakes_.mutex);
      wakes_.targets.erase(wake_);
    }
    --shared_.num_connections;
  }

  void post_wake() {
    asio::post(socket_.get_executor(), [self = weak_from_this()] {
      if (auto connection = self.lock()) connection->event_.cancel();
    });
  }

  awaitable<void> run() {
    auto self = shared_from_this();
    if (tls_) {
      arm(shared_.options.header_ms_max);
      error_code error;
      co_await tls_->async_handshake(asio::ssl::stream_base::server, asio::redirect_error(use_awaitable, error));
      if (error) {
        close();
        co_return;
      }
    }
    for (;;) {
      HttpRequest request;
      bool keep_alive = false, is_http_1_0 = false;
      int refused = 0;
      std::string why;
      bool complete = co_await read_request(request, keep_alive, is_http_1_0, refused, why);
      if (refused != 0) {
        HttpReply reply = shared_.hooks.refuse(refused, why);
        co_await send_whole(reply, false, false);
        co_await linger();
        break;
      }
      if (!complete) break;
      disarm();
      bool is_alive = co_await answer(request, keep_alive, is_http_1_0);
      if (!is_alive) break;
    }
    close();
  }

 private:
  // --- time-outs
  // -------------------------------------------------------------------------------------------------------

  void arm(int64_t ms) {
    watchdog_.expires_after(milliseconds(ms));
    watchdog_.async_wait([weak = weak_from_this()](error_code error) {
      if (error) return;
      // expires_after() by somebody else does not stop a handler that is queued already.
      if (auto self = weak.lock(); self && self->watchdog_.expiry() <= SteadyClock::now()) self->close();
    });
  }
  void disarm() { watchdog_.expires_at(SteadyClock::time_point::max()); }

  void close() {
    disarm();
    error_code ignored;
    socket_.shutdown(asio::socket_base::shutdown_both, ignored);
    socket_.close(ignored);
    if (!read_error_) read_error_ = asio::error::operation_aborted;
    event_.cancel();
  }

  // Until something happened: bytes came, the client went, a wake, or the time. Spurious returns are fine.
  awaitable<void> wait_for_event(int64_t ms_max) {
    if (ms_max > 0) {
      event_.expires_after(milliseconds(ms_max));
    } else {
      event_.expires_at(SteadyClock::time_point::max());
    }
    error_code ignored;
    co_await event_.async_wait(asio::redirect_error(use_awaitable, ignored));
  }

  // --- reading
  // ---------------------------------------------------------------------------------------------------------

  void start_read() {
    if (is_reading_ || read_error_ || input_.size() >= kPipelinedBytesMax) return;
    is_reading_ = true;
    size_t wanted = reads_body_ ? kPieceBytes : kReadBytes;
    if (read_buffer_.size() != wanted) {
      read_buffer_ = std::vector<char>(wanted);
    }
    auto on_read = [self = shared_from_this()](error_code error, size_t count) {
      self->is_reading_ = false;
      self->input_.append(self->read_buffer_.data(), count);
      if (error) self->read_error_ = error;
      self->event_.cancel();
    };
    if (tls_) {
      tls_->async_read_some(asio::buffer(read_buffer_), std::move(on_read));
    } else {
      socket_.async_read_some(asio::buffer(read_buffer_), std::move(on_read));
    }
  }

  // False: the client has gone, or (refused != 0) what it sent is to be refused with that status.
  awaitable<bool> read_request(HttpRequest& request, bool& keep_alive, bool& is_http_1_0, int& refused,
                               std::string& why) {
    http::request_parser<http::string_body> parser;
    parser.header_limit(static_cast<uint32_t>(shared_.options.header_bytes_max));
    parser.body_limit(shared_.options.body_bytes_max);
    parser.eager(true);
    bool has_begun = false, is_header_done = false;
    int64_t body_bytes = 0;
    SteadyClock::time_point body_begin;
    arm(shared_.options.idle_ms_max);
    for (;;) {
      if (!has_begun) {  // an empty line before a request is allowed
        size_t blank = input_.find_first_not_of("\r\n");
        input_.erase(0, blank == std::string::npos ? input_.size() : blank);
      }
      size_t consumed = 0;
      if (!input_.empty()) {
        if (!has_begun) arm(shared_.options.header_ms_max);
        has_begun = true;
        error_code error;
        consumed = parser.put(asio::buffer(input_), error);
        input_.erase(0, consumed);
        if (error && error != http::error::need_more) {
          refused = error == http::error::header_limit ? 431
                    : error == http::error::body_limit ? 413
                    : error == http::error::bad_version ? 505 : 400;
          why = refused == 431 ? fmt::format("the request's headers are larger than {} bytes",
                                             shared_.options.header_bytes_max)
                : refused == 413
                    ? fmt::format("the request's body is larger than {} bytes", shared_.options.body_bytes_max)
                    : fmt::format("not a well-formed HTTP/1.1 request: {}", error.message());
          co_return false;
        }
        if (parser.is_header_done() && !is_header_done) {
          std::string_view coding(parser.get()[http::field::transfer_encoding]);
          if (!coding.empty() && !equals_ignoring_case(coding, "chunked")) {
            // Where such a body ends is anybody's guess, so what follows must not be taken for a request.
            refused = 501;
            why = "the only Transfer-Encoding that this server takes is 'chunked'";
            co_return false;
          }
        }
        if (parser.is_done()) break;
        if (parser.is_header_done() && !is_header_done) {
          is_header_done = true;
          reads_body_ = true;
          body_begin = SteadyClock::now();
          if (equals_ignoring_case(std::string_view(parser.get()[http::field::expect]), "100-continue") &&
              parser.get().version() >= 11) {
            std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
            bool sent = co_await write(std::move(go_on));
            if (!sent) co_return false;
          }
        }
        if (is_header_done) {
          body_bytes += static_cast<int64_t>(consumed);
          int64_t elapsed = std::chrono::duration_cast<milliseconds>(SteadyClock::now() - body_begin).count();
          arm(std::max<int64_t>(1, shared_.options.body_ms_max + body_bytes - elapsed));
        }
        if (consumed > 0 && !input_.empty()) continue;
        if (input_.size() >= kPipelinedBytesMax + kReadBytes ||
            (consumed == 0 && input_.size() >= kPipelinedBytesMax)) {
          refused = is_header_done ? 400 : 431;
          why = is_header_done ? "a chunk's header is too large"
                               : fmt::format("the request's headers are larger than {} bytes",
                                             shared_.options.header_bytes_max);
          co_return false;
        }
      }
      if (read_error_) co_return false;
      start_read();
      while (is_reading_ && !read_error_) co_await wait_for_event(0);
      if (read_error_ && input_.empty()) co_return false;
    }
    reads_body_ = false;
    keep_alive = parser.keep_alive();
    is_http_1_0 = parser.get().version() < 11;
    request = to_request(parser.release(), peer_);
    co_return true;
  }

  // --- answering
  // -------------------------------------------------------------------------------------------------------

  // False: the connection is to be closed.
  awaitable<bool> answer(const HttpRequest& request, bool keep_alive, bool is_http_1_0) {
    shared_.begin_request();
    struct End {
      Shared& shared;
      ~End() { shared.end_request(); }
    } end{shared_};
    start_read();  // to notice when the client goes away
    {
      std::lock_guard lock(wake_->mutex);
      wake_->is_pending = false;
    }
    Wake wake = [target = wake_] {
      std::lock_guard lock(target->mutex);
      if (target->connection == nullptr || std::exchange(target->is_pending, true)) return;
      target->connection->post_wake();
    };
    HttpReply reply;
    auto work = [&]() -> awaitable<void> {
      reply = shared_.hooks.handle(request, wake);
      co_return;
    };
    co_await asio::co_spawn(shared_.workers->get_executor(), work, use_awaitable);

    num_body_bytes_ = 0;
    bool is_head = request.method == "HEAD";
    bool is_alive = true, head_sent = false;
    while (reply.advance) {
      {
        std::lock_guard lock(wake_->mutex);
        wake_->is_pending = false;
      }
      Progress progress = reply.advance(reply);
      if (reply.streams && !reply.body.empty()) {
        if (shared_.closing) keep_alive = false;
        std::string bytes;
        if (!head_sent) {
          if (is_http_1_0) keep_alive = false;
          bytes = head(reply, keep_alive, is_http_1_0 ? "" : "Transfer-Encoding: chunked\r\n");
          head_sent = true;
        }
        num_body_bytes_ += static_cast<int64_t>(reply.body.size());
        if (!is_http_1_0) bytes += fmt::format("{:x}\r\n", reply.body.size());
        bytes += reply.body;
        if (!is_http_1_0) bytes += "\r\n";
        reply.body.clear();
        is_alive = co_await write(std::move(bytes));
        if (!is_alive) break;
      }
      if (progress == Progress::kDone) break;
      if (progress == Progress::kWait) {
        start_read();
        if (!read_error_ && !is_wake_pending()) co_await wait_for_event(reply.wait_ms_max);
      }
      if (read_error_) is_alive = false;  // nobody is there to read the rest
      if (!is_alive) break;
    }
    reply.advance = nullptr;  // whatever still runs for it is cancelled
    int status = reply.status;
    if (!is_alive) {
      status = 499;
    } else if (head_sent) {
      if (!is_http_1_0) is_alive = co_await write("0\r\n\r\n");
    } else {
      if (shared_.closing) keep_alive = false;
      is_alive = co_await send_whole(reply, keep_alive, is_head);
    }
    double seconds = static_cast<double>(monotonic_us() - request.received_us) * 1e-6;
    if (shared_.hooks.observe) shared_.hooks.observe(request, reply.route, status, seconds, num_body_bytes_);
    co_return is_alive && keep_alive;
  }

  bool is_wake_pending() {
    std::lock_guard lock(wake_->mutex);
    return wake_->is_pending;
  }

  static std::string head(const HttpReply& reply, bool keep_alive, const std::string& framing) {
    std::string bytes =
        fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\n", reply.status, status_text(reply.status), http_date());
    for (const Header& header : reply.headers) {
      bytes += header.name;
      bytes += ": ";
      for (char c : header.value) bytes.push_back(c == '\r' || c == '\n' ? ' ' : c);
      bytes += "\r\n";
    }
    bytes += framing;
    bytes += keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
    return bytes;
  }

  awaitable<bool> send_whole(HttpReply& reply, bool keep_alive, bool is_head) {
    std::string framing;
    if (reply.status != 204) framing = fmt::format("Content-Length: {}\r\n", reply.body.size());
    std::string bytes = head(reply, keep_alive, framing);
    num_body_bytes_ = static_cast<int64_t>(reply.body.size());
    if (!is_head) bytes += reply.body;
    bool sent = co_await write(std::move(bytes));
    co_return sent;
  }

  awaitable<bool> write(std::string bytes) {
    for (size_t begin = 0; begin < bytes.size(); begin += kPieceBytes) {
      arm(shared_.options.write_ms_max);
      auto piece = asio::buffer(bytes.data() + begin, std::min(kPieceBytes, bytes.size() - begin));
      error_code error;
      if (tls_) {
        co_await asio::async_write(*tls_, piece, asio::redirect_error(use_awaitable, error));
      } else {
        co_await asio::async_write(socket_, piece, asio::redirect_error(use_awaitable, error));
      }
      if (error) co_return false;
    }
    disarm();
    co_return true;
  }

  // A client that is refused may still be sending. Closing at once would reset the connection and with it the
  // answer on its way: say that nothing more comes, and read on for a moment.
  awaitable<void> linger() {
    if (tls_) co_return;
    error_code ignored;
    socket_.shutdown(asio::socket_base::shutdown_send, ignored);
    arm(kLingerMs);
    size_t total = 0;
    reads_body_ = true;
    while (!read_error_ && total < kLingerBytesMax) {
      total += input_.size();
      input_.clear();
      start_read();
      while (is_reading_ && !read_error_) co_await wait_for_event(0);
    }
  }

  Shared& shared_;
  WakeTargets& wakes_;
  AnySocket socket_;
  std::optional<TlsStream> tls_;  // over socket_
  const std::string peer_;
  asio::steady_timer event_;      // a condition variable: cancelled when something happened
  asio::steady_timer watchdog_;   // closes the socket
  std::vector<char> read_buffer_;
  std::string input_;             // read and not parsed yet
  error_code read_error_;
  bool is_reading_ = false;
  bool reads_body_ = false;
  int64_t num_body_bytes_ = 0;
  const std::shared_ptr<WakeTarget> wake_ = std::make_shared<WakeTarget>();
};

// As many file descriptors as the system lets us have: a thousand idle connections are usual.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  rlim_t wanted = std::min<rlim_t>(limit.rlim_max, 65536);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
}

template <typename Endpoint>
std::string describe_peer(const Endpoint&) {
  return "unix";
}
std::string describe_peer(const asio::ip::tcp::endpoint& endpoint) {
  return fmt::format("{}:{}", endpoint.address().to_string(), endpoint.port());
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const Header& header : headers) {
    if (equals_ignoring_case(header.name, name)) return header.value;
  }
  return {};
}

const char* status_text(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 413: return "Payload Too Large";
    case 415: return "Unsupported Media Type";
    case 422: return "Unprocessable Entity";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
  }
}

struct HttpServer::Impl {
  Shared shared;
  WakeTargets wakes;
  std::unique_ptr<asio::thread_pool> workers;
  std::unique_ptr<asio::io_context> io;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::vector<std::thread> threads;
  int port = 0;
  bool owns_uds = false;  // we made the socket's file

  template <typename Protocol>
  awaitable<void> accept(asio::basic_socket_acceptor<Protocol> acceptor) {
    asio::steady_timer pause(*io);
    for (;;) {
      while (shared.num_connections >= static_cast<int64_t>(shared.options.connections_max)) {
        pause.expires_after(milliseconds(50));
        co_await pause.async_wait(use_awaitable);
      }
      error_code error;
      asio::any_io_executor strand = asio::make_strand(*io);
      typename Protocol::socket socket(strand);
      co_await acceptor.async_accept(socket, asio::redirect_error(use_awaitable, error));
      if (error == asio::error::operation_aborted || !acceptor.is_open()) co_return;
      if (error) {  // out of file descriptors, most likely: some will come back
        LOG(warning, "cannot accept a connection: {}", error.message());
        pause.expires_after(milliseconds(100));
        co_await pause.async_wait(use_awaitable);
        continue;
      }
      auto remote = socket.remote_endpoint(error);
      std::string peer = error ? std::string("unknown") : describe_peer(remote);
      if constexpr (std::is_same_v<Protocol, asio::ip::tcp>) socket.set_option(asio::ip::tcp::no_delay(true), error);
      auto connection = std::make_shared<Connection>(shared, wakes, AnySocket(std::move(socket)), std::move(peer));
      auto serve = [connection]() { return connection->run(); };
      asio::co_spawn(strand, serve, asio::detached);
    }
  }

  void listen_tcp() {
    const HttpOptions& options = shared.options;
    error_code error;
    asio::ip::tcp::resolver resolver(*io);
    auto found = resolver.resolve(options.host, std::to_string(options.port),
                                  asio::ip::resolver_base::passive | asio::ip::resolver_base::numeric_service, error);
    if (error || found.empty()) {
      fail(Code::kInvalidArgument, "cannot resolve the host '{}' to listen on: {}", options.host, error.message());
    }
    asio::ip::tcp::endpoint endpoint = *found.begin();
    asio::ip::tcp::acceptor acceptor(*io);
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
    if (!error && endpoint.address().is_v6()) acceptor.set_option(asio::ip::v6_only(false), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(4096, error);
    if (error) {
      fail(Code::kUnavailable, "cannot listen on {}:{}: {}; choose another with --host and --port",
           options.host, options.port, error.message());
    }
    port = acceptor.local_endpoint().port();
    asio::co_spawn(*io, accept(std::move(acceptor)), asio::detached);
  }

  void listen_uds() {
    const std::string& path = shared.options.uds;
    error_code error;
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0) {
      if (!S_ISSOCK(status.st_mode))
        fail(Code::kAlreadyExists, "--uds {}: there is a file there that is no socket", path);
      asio::local::stream_protocol::socket probe(*io);
      probe.connect(asio::local::stream_protocol::endpoint(path), error);
      if (!error) fail(Code::kAlreadyExists, "--uds {}: another server listens there", path);
      ::unlink(path.c_str());  // left behind by a server that is gone
      error.clear();
    }
    if (path.size() >= sizeof(sockaddr_un::sun_path)) {
      fail(Code::kInvalidArgument, "--uds {}: the path is longer than a socket's may be", path);
    }
    asio::local::stream_protocol::acceptor acceptor(*io);
    asio::local::stream_protocol::endpoint endpoint(path);
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.bind(endpoint, error);
    owns_uds = !error;
    if (!error) acceptor.listen(4096, error);
    if (error) fail(Code::kUnavailable, "cannot listen on --uds {}: {}", path, error.message());
    asio::co_spawn(*io, accept(std::move(acceptor)), asio::detached);
  }

  void load_certificate() {
    const HttpOptions& options = shared.options;
    if (options.ssl_certfile.empty() && options.ssl_keyfile.empty()) return;
    if (options.ssl_certfile.empty()) fail(Code::kInvalidArgument, "--ssl-keyfile needs --ssl-certfile");
    const std::string& key = options.ssl_keyfile.empty() ? options.ssl_certfile : options.ssl_keyfile;
    shared.tls.emplace(asio::ssl::context::tls_server);
    shared.tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                            asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                            asio::ssl::context::no_tlsv1_1);
    error_code error;
    shared.tls->use_certificate_chain_file(options.ssl_certfile, error);
    if (error) fail(Code::kInvalidArgument, "--ssl-certfile {}: {}", options.ssl_certfile, error.message());
    shared.tls->use_private_key_file(key, asio::ssl::context::pem, error);
    if (error) fail(Code::kInvalidArgument, "--ssl-keyfile {}: {}", key, error.message());
  }
};

HttpServer::HttpServer(HttpOptions options, HttpHooks hooks) : impl_(std::make_unique<Impl>()) {
  impl_->shared.options = std::move(options);
  impl_->shared.hooks = std::move(hooks);
}

HttpServer::~HttpServer() { stop(); }

void HttpServer::start() {
  Impl& impl = *impl_;
  raise_file_limit();
  impl.load_certificate();
  impl.workers = std::make_unique<asio::thread_pool>(static_cast<size_t>(impl.shared.options.num_worker_threads));
  impl.shared.workers = impl.workers.get();
  impl.io = std::make_unique<asio::io_context>(impl.shared.options.num_io_threads);
  impl.work.emplace(impl.io->get_executor());
  if (impl.shared.options.uds.empty()) {
    impl.listen_tcp();
  } else {
    impl.listen_uds();
  }
  for (int i = 0; i < impl.shared.options.num_io_threads; ++i) impl.threads.emplace_back([&impl] { impl.io->run(); });
}

int HttpServer::port() const { return impl_->port; }

void HttpServer::close_connections_after_reply() { impl_->shared.closing = true; }

bool HttpServer::wait_until_idle(int64_t timeout_ms) {
  std::unique_lock lock(impl_->shared.mutex);
  return impl_->shared.idle.wait_for(lock, milliseconds(timeout_ms), [&] { return impl_->shared.num_active == 0; });
}

void HttpServer::stop() {
  Impl& impl = *impl_;
  if (!impl.io) return;
  impl.work.reset();
  impl.io->stop();
  for (std::thread& thread : impl.threads) thread.join();
  impl.threads.clear();
  impl.workers->join();
  {
    std::lock_guard lock(impl.wakes.mutex);
    for (const std::shared_ptr<WakeTarget>& target : impl.wakes.targets) {
      std::lock_guard target_lock(target->mutex);
      target->connection = nullptr;
    }
  }
  impl.io.reset();  // destroys the connections, their replies, and with them the work that goes on for them
  impl.workers.reset();
  if (std::exchange(impl.owns_uds, false)) ::unlink(impl.shared.options.uds.c_str());
}

int64_t HttpServer::num_connections() const { return impl_->shared.num_connections; }

int64_t HttpServer::num_active() const {
  std::lock_guard lock(impl_->shared.mutex);
  return impl_->shared.num_active;
}

}  // namespace sluice::api
