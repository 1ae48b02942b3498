// The HTTP/1.1 server: bytes on sockets to HttpRequest, HttpReply to bytes. The door to Boost.Asio, Beast (its
// parser) and OpenSSL (TLS); nothing of them shows here, and nothing here knows a route.
//
// A few io threads serve all connections as coroutines; an idle connection costs no thread. Handlers run on a
// few worker threads, so that tokenising a long prompt delays no socket. A handler returns at once; a reply
// that is not finished brings an `advance` function, called on an io thread at the start and whenever its Wake
// was called. While a reply is unfinished the socket is watched: when the client goes away the reply is
// destroyed, and that cancels its work. Everything is bounded: header and body sizes, the time to send a
// request, the time to accept a piece of the reply.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::api {

struct Header {
  std::string name, value;
};

struct HttpRequest {
  std::string method;
  std::string path;      // without the query, percent-decoded
  std::string query;     // what follows '?', as it was sent
  std::vector<Header> headers;
  std::string body;
  std::string peer;      // "127.0.0.1:50312", or "unix"
  int64_t received_us = 0;  // monotonic, when its last byte was there

  // The first header of that name (any case); empty when absent.
  std::string_view header(std::string_view name) const;
};

enum class Progress {
  kWait,  // nothing to do until the wake
  kMore,  // call again as soon as the client took what there is
  kDone,
};

struct HttpReply {
  int status = 200;
  std::vector<Header> headers;
  std::string body;      // all of it, or with `streams` what is to be sent next
  // Set: the reply is not finished. Never called by two threads at once; must not throw.
  std::function<Progress(HttpReply& reply)> advance;
  bool streams = false;  // send the body bit by bit; otherwise it is sent when `advance` is done
  int64_t wait_ms_max = 0;  // call `advance` at the latest after this long without a wake; 0: never
  std::string route;     // which route answered, for the metrics
};

// Tells the server that an unfinished reply can advance. Any thread, at any time, returns at once.
using Wake = std::function<void()>;

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8000;               // 0: any free one
  std::string uds;               // a Unix socket's path, instead of host and port
  std::string ssl_certfile, ssl_keyfile;  // PEM; both or none
  int num_io_threads = 2;
  int num_worker_threads = 4;
  size_t header_bytes_max = 64 << 10;
  size_t body_bytes_max = 64 << 20;
  size_t connections_max = 16384;
  int64_t idle_ms_max = 300'000;      // between two requests of a connection
  int64_t header_ms_max = 20'000;     // first byte of a request to the end of its headers
  int64_t body_ms_max = 30'000;       // for the body; and a second more for every KiB that came
  int64_t write_ms_max = 60'000;      // for the client to take one piece (64 KiB at most) of a reply
};

struct HttpHooks {
  std::function<HttpReply(const HttpRequest& request, Wake wake)> handle;
  // The reply to bytes that are no request, or are too many.
  std::function<HttpReply(int status, const std::string& message)> refuse;
  // After a reply was sent, or its client had gone (status 499).
  std::function<void(const HttpRequest& request, const std::string& route, int status, double seconds,
                     int64_t reply_bytes)> observe;
};

const char* status_text(int status);

class HttpServer {
 public:
  HttpServer(HttpOptions options, HttpHooks hooks);
  ~HttpServer();  // stops
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds and serves. Throws Error: address in use, bad certificate.
  void start();
  int port() const;
  // From now on replies say Connection: close.
  void close_connections_after_reply();
  // Waits until no request is being answered, at most so long; false on time-out.
  bool wait_until_idle(int64_t timeout_ms);
  // Closes every connection and joins the threads. Unfinished replies are destroyed.
  void stop();

  int64_t num_connections() const;
  int64_t num_active() const;  // requests being answered

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::api
