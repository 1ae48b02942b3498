// The HTTP client that loads a server: many requests at their times, each a POST whose answer is a stream of events,
// and single requests beforehand. The door to Boost.Asio and Beast here; nothing of them shows.
//
// One thread, the caller's, runs all connections as coroutines, so the load takes as little as possible of the machine
// it may share with the server. Connections are kept open and used again; a request on a used one that the server has
// closed meanwhile is sent once more on a new one. Everything is bounded: the time of a request, the size of an event
// and of an error reply. What fails ends up in the record of its request; nothing of that throws. It installs no signal
// handlers: who wants to stop a load early says so through `should_stop`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/request_record.h"

namespace sluice::bench {

struct HttpTarget {
  std::string host, port;
  std::string base_path;                // before "/v1/..."; "" or "/some/where"
  std::string api_key;                  // empty: none is sent
  std::string authority() const;        // "host:port", as the Host header has it
  std::string url() const;              // "http://host:port/base"
};
// "http://host:port", a path after it, or "host:port". A final /v1 is taken off. Throws Error.
HttpTarget parse_url(const std::string& url);

struct HttpAnswer {
  int status = 0;
  std::string body;
};
// Sends one request and waits for all of the answer (16 MiB at most). Throws Error(kUnavailable) naming the URL when
// there is none.
HttpAnswer fetch(const HttpTarget& target, const std::string& method, const std::string& path, const std::string& body,
                 double timeout_seconds);

struct LoadOptions {
  std::string path;                     // "/v1/completions"
  std::vector<double> due_seconds;      // when each request is to be sent, ascending; all 0: as soon as allowed
  int64_t max_concurrency = 0;          // requests at a time; 0: any number
  double timeout_seconds = 600;         // of one request
  std::function<std::string(size_t index)> make_body;  // called just before the request is sent
  std::function<void(size_t num_done, size_t num_failed)> on_progress;  // after each request; may be empty
  // Asked every few hundredths of a second, may be empty. True cuts off what runs and sends nothing more.
  std::function<bool()> should_stop;
};
struct LoadResult {
  std::vector<RequestRecord> records;   // in the order of due_seconds; is_unfinished where the load was stopped before
  double duration_seconds = 0;          // from the start of the run until the last answer ends, or until it was stopped
};
LoadResult run_load(const HttpTarget& target, const LoadOptions& options);

}  // namespace sluice::bench
