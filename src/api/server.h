// The server: the repository's models behind HTTP. Owns the sockets' threads and the route table; the
// repository and its models belong to the caller and outlive it.
//
//   serve::Repository repository;
//   repository.add({"my-model"}, std::make_shared<serve::LlmModel>(std::move(loaded), options,
//   &repository.metrics())); Server server(options, repository); server.start(); server.run_until_signal();
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/auth.h"
#include "api/http.h"
#include "api/openai.h"
#include "api/routes.h"
#include "serve/repository.h"

namespace sluice::api {

struct ServerOptions {
  HttpOptions http;                           // --host --port --uds --ssl-certfile --ssl-keyfile --max-body-size
  std::vector<std::string> api_keys;          // --api-key; empty: everybody may
  std::vector<std::string> allowed_origins = {"*"};  // --allowed-origins
  OpenAiLimits limits;                        // --max-logprobs and the like
  int64_t drain_timeout_ms = 30'000;          // --drain-timeout
  int64_t request_timeout_ms = 0;             // --request-timeout; 0: none
};

class Server {
 public:
  Server(ServerOptions options, serve::Repository& repository);
  ~Server();  // stops at once
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Binds and serves. Throws Error.
  void start();
  int port() const { return http_.port(); }
  // "http://127.0.0.1:8000", or "unix:/path".
  std::string url() const;
  // Waits for SIGTERM or SIGINT, then drains and stops; a second signal stops at once. Call from the main thread.
  void run_until_signal();
  // New requests get 503 while running ones finish, for at most --drain-timeout. True if all finished.
  bool drain();
  void stop();

  HttpServer& http() { return http_; }

 private:
  HttpReply handle(const HttpRequest& request, Wake wake);
  HttpReply dispatch(const HttpRequest& request, Wake wake);
  void add_routes();

  const ServerOptions options_;
  serve::Repository& repository_;
  OpenAiContext openai_;
  const Auth auth_;
  const Cors cors_;
  Routes routes_;
  std::atomic<bool> draining_{false};
  HttpServer http_;  // last: its threads use everything above
};

}  // namespace sluice::api
