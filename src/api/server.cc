#include "api/server.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "api/errors.h"
#include "api/utf8.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sluice/version.h"

namespace sluice::api {
namespace {

// A signal becomes a byte in a pipe; everything else happens on an ordinary thread.
int g_signal_pipe[2] = {-1, -1};

void on_signal(int) {
  int saved = errno;
  char byte = 1;
  [[maybe_unused]] ssize_t written = ::write(g_signal_pipe[1], &byte, 1);
  errno = saved;
}

// True when a signal came within `timeout_ms` (-1: no limit).
bool wait_for_signal(int timeout_ms) {
  pollfd entry{g_signal_pipe[0], POLLIN, 0};
  while (::poll(&entry, 1, timeout_ms) < 0) {
    if (errno != EINTR) return true;
  }
  if ((entry.revents & POLLIN) == 0) return false;
  char byte;
  [[maybe_unused]] ssize_t count = ::read(g_signal_pipe[0], &byte, 1);
  return true;
}

HttpReply empty_reply(int status) {
  HttpReply reply;
  reply.status = status;
  return reply;
}

HttpReply text_reply(std::string body, const char* content_type) {
  HttpReply reply;
  reply.headers.push_back({"Content-Type", content_type});
  reply.body = std::move(body);
  return reply;
}

HttpHooks make_hooks(std::function<HttpReply(const HttpRequest&, Wake)> handle, serve::Repository& repository) {
  HttpHooks hooks;
  hooks.handle = std::move(handle);
  hooks.refuse = [](int status, const std::string& message) { return error_reply(status, message); };
  hooks.observe = [&repository](const HttpRequest& request, const std::string& route, int status, double seconds,
                                int64_t reply_bytes) {
    // Methods and paths of strangers must not become labels without end.
    static const std::vector<std::string> kMethods = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"};
    bool is_known = std::find(kMethods.begin(), kMethods.end(), request.method) != kMethods.end();
    repository.metrics().observe_http(route.empty() ? "none" : route, is_known ? request.method : "other",
                                      status, seconds, static_cast<int64_t>(request.body.size()), reply_bytes);
    LOG(debug, "{} {} {} from {} in {:.1f} ms", request.method, to_valid_utf8(request.path), status,
        request.peer, seconds * 1e3);
  };
  return hooks;
}

}  // namespace

Server::Server(ServerOptions options, serve::Repository& repository)
    : options_(std::move(options)),
      repository_(repository),
      openai_{repository, options_.limits, options_.request_timeout_ms},
      auth_(options_.api_keys),
      cors_(options_.allowed_origins),
      http_(options_.http, make_hooks([this](const HttpRequest& request,
                                             Wake wake) { return handle(request, std::move(wake)); },
                                      repository)) {
  add_routes();
}

Server::~Server() { stop(); }

void Server::add_routes() {
  routes_.add({"POST", "/v1/chat/completions", [this](const HttpRequest& r, const std::string&, Wake wake) {
                 return serve_chat(openai_, r, std::move(wake));
               }});
  routes_.add({"POST", "/v1/completions", [this](const HttpRequest& r, const std::string&, Wake wake) {
                 return serve_completion(openai_, r, std::move(wake));
               }});
  routes_.add({"GET", "/v1/models",
               [this](const HttpRequest&, const std::string&, Wake) { return serve_models(openai_); }});
  routes_.add({"GET", "/v1/models/*",
               [this](const HttpRequest&, const std::string& name, Wake) { return serve_model(openai_, name); }});
  routes_.add({"POST", "/tokenize",
               [this](const HttpRequest& r, const std::string&, Wake) { return serve_tokenize(openai_, r); }});
  routes_.add({"POST", "/detokenize",
               [this](const HttpRequest& r, const std::string&, Wake) { return serve_detokenize(openai_, r); }});

  auto is_healthy = [this] {
    std::vector<std::shared_ptr<serve::Model>> models = repository_.models();
    return std::all_of(models.begin(), models.end(), [](const auto& model) { return model->healthy(); });
  };
  auto health = [is_healthy](const HttpRequest&, const std::string&, Wake) {
    return empty_reply(is_healthy() ? 200 : 503);
  };
  routes_.add({"GET", "/health", health, true, true});
  routes_.add({"GET", "/ready",
               [this, is_healthy](const HttpRequest&, const std::string&, Wake) {
                 bool is_ready = !draining_ && !repository_.models().empty() && is_healthy();
                 return is_ready ? json_reply(json::object{{"status", "ready"}})
                                 : error_reply(503, draining_ ? "the server is shutting down" : "no model is ready");
               },
               false, true});
  routes_.add({"GET", "/ping", health, false, true});
  routes_.add({"POST", "/ping", health, false, true});
  routes_.add({"GET", "/version",
               [](const HttpRequest&, const std::string&, Wake) {
                 return json_reply(json::object{{"version", SLUICE_VERSION}});
               },
               true, true});
  routes_.add({"GET", "/metrics",
               [this](const HttpRequest&, const std::string&, Wake) {
                 return text_reply(repository_.scrape(), "text/plain; version=0.0.4; charset=utf-8");
               },
               false, true});
  routes_.add({"GET", "/load",
               [this](const HttpRequest&, const std::string&, Wake) {
                 return json_reply(json::object{{"server_load", openai_.num_generating.load()}});
               },
               false, true});
}

HttpReply Server::handle(const HttpRequest& request, Wake wake) {
  HttpReply reply;
  try {
    reply = dispatch(request, std::move(wake));
  } catch (...) {
    std::string route = std::move(reply.route);
    reply = error_reply(to_error(std::current_exception()));
    reply.route = route;
  }
  cors_.add_headers(request, reply);
  bool has_id = std::any_of(reply.headers.begin(), reply.headers.end(),
                            [](const Header& h) { return h.name == "X-Request-Id"; });
  if (std::string_view id = request.header("X-Request-Id"); !has_id && !id.empty() && id.size() <= 128) {
    reply.headers.push_back({"X-Request-Id", std::string(id)});
  }
  return reply;
}

HttpReply Server::dispatch(const HttpRequest& request, Wake wake) {
  bool is_preflight = request.method == "OPTIONS" && !request.header("Access-Control-Request-Method").empty();
  if (is_preflight) return cors_.preflight(request);  // browsers send no key with it

  std::string rest, allowed;
  const Route* route = routes_.find(request.method, request.path, rest, allowed);
  // What is not known to be public needs a key, so that strangers cannot even learn which paths there are.
  if (!(route != nullptr && route->is_public) && !auth_.allows(request)) {
    HttpReply reply = error_reply(Error(Code::kUnauthenticated,
                                        request.header("Authorization").empty()
                                            ? "no API key was sent: set the header 'Authorization: Bearer KEY'"
                                            : "the API key is not valid for this server"));
    if (route != nullptr) reply.route = route->path;
    return reply;
  }
  if (route == nullptr) {
    if (allowed.empty()) return error_reply(404, fmt::format("there is nothing at '{}'", request.path));
    HttpReply reply = request.method == "OPTIONS"
                          ? empty_reply(204)
                          : error_reply(405, fmt::format("'{}' does not take {}, only {}", request.path,
                                                         request.method, allowed));
    reply.headers.push_back({"Allow", allowed});
    return reply;
  }
  HttpReply reply;
  try {
    if (draining_ && !route->works_when_draining) fail(Code::kUnavailable, "the server is shutting down");
    reply = route->handle(request, rest, std::move(wake));
  } catch (...) {
    reply = error_reply(to_error(std::current_exception()));
  }
  reply.route = route->path;
  return reply;
}

void Server::start() { http_.start(); }

std::string Server::url() const {
  if (!options_.http.uds.empty()) return "unix:" + options_.http.uds;
  bool is_v6 = options_.http.host.find(':') != std::string::npos;
  return fmt::format("{}://{}{}{}:{}", options_.http.ssl_certfile.empty() ? "http" : "https", is_v6 ? "[" : "",
                     options_.http.host, is_v6 ? "]" : "", port());
}

void Server::run_until_signal() {
  if (::pipe2(g_signal_pipe, O_CLOEXEC | O_NONBLOCK) != 0) fail(Code::kInternal, "cannot make a pipe for signals");
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  struct sigaction before_term {}, before_int {};
  sigaction(SIGTERM, &action, &before_term);
  sigaction(SIGINT, &action, &before_int);

  wait_for_signal(-1);
  draining_ = true;
  http_.close_connections_after_reply();
  LOG(info, "shutting down: {} requests are running, they have {:g} s; a second signal stops at once",
      openai_.num_generating.load(), static_cast<double>(options_.drain_timeout_ms) / 1000);
  int64_t end_us = monotonic_us() + options_.drain_timeout_ms * 1000;
  while (monotonic_us() < end_us && !http_.wait_until_idle(0)) {
    if (wait_for_signal(50)) break;
  }
  if (int64_t left = http_.num_active(); left > 0) LOG(warning, "{} requests had not finished and are cut off", left);
  stop();
  sigaction(SIGTERM, &before_term, nullptr);
  sigaction(SIGINT, &before_int, nullptr);
  for (int& end : g_signal_pipe) ::close(std::exchange(end, -1));
}

bool Server::drain() {
  draining_ = true;
  http_.close_connections_after_reply();
  bool all_done = http_.wait_until_idle(options_.drain_timeout_ms);
  stop();
  return all_done;
}

void Server::stop() { http_.stop(); }

}  // namespace sluice::api
