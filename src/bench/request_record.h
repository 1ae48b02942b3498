// What became of one request of a load: when it was sent, when each piece of its answer came, how many tokens the
// server says there were, and why it failed if it did. StreamReader fills it from the events of an OpenAI stream; the
// HTTP client owns both while the request runs, the report reads the records afterwards.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::bench {

struct RequestRecord {
  double start_seconds = 0;            // when it was sent, after the start of the run
  double late_seconds = 0;             // behind its plan, because --max-concurrency held it back
  std::vector<double> piece_seconds;   // when each piece with output came, after start_seconds
  int64_t prompt_tokens = 0;           // as the server counts, else as planned
  int64_t output_tokens = 0;           // as the server counts, else the pieces
  std::optional<int64_t> cached_tokens;  // of the prompt, where the server says
  int64_t wanted_tokens = 0;           // that were asked for; 0: not known
  bool has_usage = false;
  bool has_stopped = false;            // by its finish_reason, at an end token and not at the length asked for
  bool is_unfinished = false;          // the run was stopped before it was answered, or sent: it counts nowhere
  std::string error;                   // empty: nothing went wrong

  bool ok() const { return error.empty() && !is_unfinished; }
  // Answered with fewer tokens than were asked for. Pieces are no count that could tell.
  bool is_short() const { return ok() && (has_usage ? output_tokens < wanted_tokens : has_stopped); }
  double ttft() const { return piece_seconds.front(); }   // REQUIRES (these three): ok()
  double e2el() const { return piece_seconds.back(); }
  // Per token after the first; REQUIRES: output_tokens > 1.
  double tpot() const { return (e2el() - ttft()) / static_cast<double>(output_tokens - 1); }
};

// The events of one /v1/completions or /v1/chat/completions stream.
class StreamReader {
 public:
  explicit StreamReader(RequestRecord& record) : record_(record) {}
  // `seconds` after start_seconds. Never throws: what is not understood becomes the record's error.
  void read(std::string_view data, double seconds);
  // The stream has ended in good order.
  void finish();

 private:
  RequestRecord& record_;
};

// What an error reply says: "HTTP 400: " and its message, whichever of the usual shapes it has.
std::string describe_error_reply(int status, std::string_view body);

}  // namespace sluice::bench
