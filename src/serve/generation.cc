#include "serve/generation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

namespace sluice::serve {
namespace {

const char* reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kAbort: return "abort";
    case FinishReason::kError: return "error";
  }
  return "error";
}

double seconds_between(int64_t from_us, int64_t to_us) {
  return from_us > 0 && to_us >= from_us ? static_cast<double>(to_us - from_us) * 1e-6 : -1;
}

}  // namespace

void EventQueue::push(engine::Event&& event) {
  bool was_empty;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    was_empty = events_.empty();
    events_.push_back({std::move(event), monotonic_us()});
  }
  if (!was_empty) return;
  ready_.notify_one();
  if (wake_) wake_();
}

std::optional<EventQueue::Stamped> EventQueue::try_pop() {
  std::lock_guard lock(mutex_);
  if (events_.empty()) return std::nullopt;
  Stamped stamped = std::move(events_.front());
  events_.pop_front();
  return stamped;
}

std::optional<EventQueue::Stamped> EventQueue::wait_pop(int64_t deadline_us) {
  std::unique_lock lock(mutex_);
  auto is_ready = [&] { return closed_ || !events_.empty(); };
  if (deadline_us == 0) {
    ready_.wait(lock, is_ready);
  } else {
    int64_t wait_us = std::max<int64_t>(0, deadline_us - monotonic_us());
    ready_.wait_for(lock, std::chrono::microseconds(wait_us), is_ready);
  }
  if (events_.empty()) return std::nullopt;
  Stamped stamped = std::move(events_.front());
  events_.pop_front();
  return stamped;
}

bool EventQueue::empty() const {
  std::lock_guard lock(mutex_);
  return events_.empty();
}

void EventQueue::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    events_.clear();
  }
  ready_.notify_all();
}

Generation::Generation(GenerationSetup setup, std::shared_ptr<EventQueue> queue)
    : setup_(std::move(setup)), queue_(std::move(queue)), sequences_(static_cast<size_t>(setup_.best_of)) {
  CHECK(setup_.n >= 1 && setup_.best_of >= setup_.n, setup_.n, setup_.best_of);
  timings_.arrival_us = setup_.arrival_us;
  if (setup_.tokenizer == nullptr) return;
  for (Sequence& sequence : sequences_) {
    sequence.detokenizer.emplace(*setup_.tokenizer, setup_.detokenizer, setup_.prompt);
  }
}

Generation::~Generation() {
  if (complete_) return;
  cancel();
  complete("abort");
}

void Generation::cancel() {
  if (!complete_ && setup_.cancel) setup_.cancel();
}

std::vector<Chunk> Generation::take(size_t max_chunks) {
  while (!complete_ && ready_.size() < max_chunks) {
    std::optional<EventQueue::Stamped> stamped = queue_->try_pop();
    if (!stamped) break;
    process(std::move(*stamped));
  }
  check_deadline();
  size_t count = std::min(ready_.size(), max_chunks);
  std::vector<Chunk> chunks(std::make_move_iterator(ready_.begin()),
                            std::make_move_iterator(ready_.begin() + static_cast<std::ptrdiff_t>(count)));
  ready_.erase(ready_.begin(), ready_.begin() + static_cast<std::ptrdiff_t>(count));
  return chunks;
}

std::optional<Chunk> Generation::next() {
  while (ready_.empty() && !complete_) {
    if (std::optional<EventQueue::Stamped> stamped = queue_->wait_pop(setup_.deadline_us))
      process(std::move(*stamped));
    check_deadline();
  }
  if (ready_.empty()) return std::nullopt;
  Chunk chunk = std::move(ready_.front());
  ready_.pop_front();
  return chunk;
}

void Generation::check_deadline() {
  if (complete_ || setup_.deadline_us == 0 || monotonic_us() < setup_.deadline_us) return;
  cancel();
  fail_with(Error(Code::kDeadlineExceeded, fmt::format("request {} did not finish before its deadline", setup_.id)));
}

void Generation::process(EventQueue::Stamped&& stamped) {
  engine::Event& event = stamped.event;
  int64_t arrival_us = timings_.arrival_us;
  timings_ = event.timings;
  if (arrival_us != 0) timings_.arrival_us = arrival_us;
  num_cached_tokens_ = std::max(num_cached_tokens_, event.num_cached_tokens);
  if (event.prompt_logprobs && prompt_logprobs_.empty()) {
    for (const engine::PositionLogprobs& position : *event.prompt_logprobs) {
      prompt_logprobs_.push_back(describe(position));
    }
  }
  if (event.error || event.finish_reason == FinishReason::kError) {
    cancel();
    fail_with(event.error ? *event.error : Error(Code::kInternal, "the engine failed on this request"));
    return;
  }
  if (event.sequence_index >= 0 && event.sequence_index < setup_.best_of) {
    Sequence& sequence = sequences_[static_cast<size_t>(event.sequence_index)];
    if (!sequence.finished) {
      Chunk chunk;
      chunk.index = event.sequence_index;
      add_tokens(sequence, event, stamped.time_us, chunk);
      if (chunk.finish_reason != FinishReason::kNone) {
        sequence.finished = true;
        ++num_finished_;
        finished_reason_ = reason_name(chunk.finish_reason);
      }
      if (setup_.best_of > setup_.n) {
        sequence.kept.push_back(std::move(chunk));
      } else {
        ready_.push_back(std::move(chunk));
      }
    }
  }
  if (num_finished_ == setup_.best_of) {
    rank_sequences();
    complete(finished_reason_);
  } else if (event.is_last) {  // an engine that stops, for instance
    fail_with(Error(Code::kAborted, fmt::format("request {} was aborted", setup_.id)));
  }
}

void Generation::add_tokens(Sequence& sequence, const engine::Event& event, int64_t time_us, Chunk& chunk) {
  chunk.finish_reason = event.finish_reason;
  if (event.finish_reason == FinishReason::kStop && event.stop_token && !event.stopped_by_end_token) {
    chunk.stop_reason = *event.stop_token;
  }
  for (size_t i = 0; i < event.tokens.size(); ++i) {
    int32_t token = event.tokens[i];
    bool stops = event.stop_token && event.finish_reason == FinishReason::kStop && i + 1 == event.tokens.size();
    chunk.tokens.push_back(token);
    ++sequence.num_tokens;
    if (i < event.logprobs.size()) {
      sequence.logprob_sum += static_cast<double>(event.logprobs[i].chosen.logprob);
      if (setup_.wants_logprobs) chunk.logprobs.push_back(describe(event.logprobs[i]));
    }
    if (!sequence.detokenizer || (stops && !setup_.detokenizer.include_stop)) continue;
    chunk.text += sequence.detokenizer->push(token);
    if (const std::optional<std::string>& matched = sequence.detokenizer->matched_stop()) {
      chunk.finish_reason = FinishReason::kStop;
      chunk.stop_reason = *matched;
      if (event.finish_reason == FinishReason::kNone && setup_.finish_sequence) {
        setup_.finish_sequence(event.sequence_index);
      }
      break;
    }
  }
  chunk.num_tokens = sequence.num_tokens;
  if (chunk.finish_reason != FinishReason::kNone && sequence.detokenizer &&
      !sequence.detokenizer->matched_stop()) {
    chunk.text += sequence.detokenizer->finish();
  }
  if (event.tokens.empty()) return;
  if (setup_.metrics != nullptr && sequence.last_time_us != 0) {
    setup_.metrics->observe_inter_token(static_cast<double>(time_us - sequence.last_time_us) * 1e-6);
  }
  sequence.last_time_us = time_us;
  last_token_us_ = time_us;
}

void Generation::fail_with(Error error) {
  Chunk chunk;  // after what came before the failure
  chunk.finish_reason = FinishReason::kError;
  chunk.error = std::move(error);
  ready_.push_back(std::move(chunk));
  complete("error");
}

// best_of: the n sequences with the highest mean log probability become choices 0..n-1, best first.
void Generation::rank_sequences() {
  if (setup_.best_of == setup_.n) return;
  std::vector<size_t> order(sequences_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  auto score = [&](size_t i) {
    return sequences_[i].logprob_sum / static_cast<double>(std::max<int64_t>(1, sequences_[i].num_tokens));
  };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return score(a) > score(b); });
  for (int index = 0; index < setup_.n; ++index) {
    for (Chunk& chunk : sequences_[order[static_cast<size_t>(index)]].kept) {
      chunk.index = index;
      ready_.push_back(std::move(chunk));
    }
  }
}

void Generation::complete(const char* finished_reason) {
  complete_ = true;
  queue_->close();
  int64_t now_us = monotonic_us();
  RequestRecord record;
  record.finished_reason = finished_reason;
  record.first_token_seconds = seconds_between(timings_.arrival_us, timings_.first_token_us);
  record.total_seconds = seconds_between(timings_.arrival_us, now_us);
  record.queue_seconds = seconds_between(timings_.queued_us, timings_.scheduled_us);
  record.prefill_seconds = seconds_between(timings_.scheduled_us, timings_.first_token_us);
  record.decode_seconds = seconds_between(timings_.first_token_us, last_token_us_);
  record.inference_seconds = seconds_between(timings_.scheduled_us, last_token_us_);
  record.prompt_tokens = static_cast<int64_t>(setup_.prompt.size());
  record.generation_tokens = usage().completion_tokens;
  for (const Sequence& sequence : sequences_) {
    record.max_generation_tokens = std::max(record.max_generation_tokens, sequence.num_tokens);
  }
  record.n = setup_.n;
  record.max_tokens = setup_.max_tokens;
  if (setup_.metrics != nullptr) setup_.metrics->observe_request(record);
  if (!log::is_on(log::Level::kInfo)) return;
  double total_ms = std::max(0.0, record.total_seconds) * 1e3;
  bool has_token = record.first_token_seconds >= 0;
  log::write(log::Level::kInfo,
             fmt::format("request {}: prompt {} tokens ({} cached), output {} tokens, first token {}, {:.1f} tokens/s, "
                         "{:.0f} ms, {}",
                         setup_.id, record.prompt_tokens, num_cached_tokens_, record.generation_tokens,
                         has_token ? fmt::format("{:.1f} ms", first_token_ms()) : std::string("none"),
                         tokens_per_second(), total_ms, finished_reason),
             {{"request_id", std::string_view(setup_.id)},
              {"prompt_tokens", record.prompt_tokens},
              {"cached_tokens", num_cached_tokens_},
              {"output_tokens", record.generation_tokens},
              {"first_token_ms", has_token ? first_token_ms() : std::nan("")},
              {"tokens_per_second", tokens_per_second()},
              {"total_ms", total_ms},
              {"finish_reason", std::string_view(finished_reason)}});
}

Usage Generation::usage() const {
  Usage usage;
  usage.prompt_tokens = static_cast<int64_t>(setup_.prompt.size());
  usage.cached_tokens = num_cached_tokens_;
  for (const Sequence& sequence : sequences_) usage.completion_tokens += sequence.num_tokens;
  return usage;
}

double Generation::first_token_ms() const {
  return seconds_between(timings_.arrival_us, timings_.first_token_us) * 1e3;
}

double Generation::tokens_per_second() const {
  double seconds = seconds_between(timings_.first_token_us, last_token_us_);
  int64_t tokens = usage().completion_tokens - static_cast<int64_t>(sequences_.size());
  return seconds > 0 && tokens > 0 ? static_cast<double>(tokens) / seconds : 0;
}

TokenText Generation::describe(const engine::TokenLogprob& logprob) const {
  TokenText text{logprob.token, "", logprob.logprob, logprob.rank};
  if (setup_.tokenizer == nullptr) return text;
  text.bytes = setup_.tokenizer->token_bytes(logprob.token);
  if (text.bytes.empty()) text.bytes = setup_.tokenizer->token_text(logprob.token);
  return text;
}

TokenLogprobs Generation::describe(const engine::PositionLogprobs& position) const {
  TokenLogprobs described{describe(position.chosen), {}};
  described.top.reserve(position.top.size());
  for (const engine::TokenLogprob& logprob : position.top) described.top.push_back(describe(logprob));
  return described;
}

}  // namespace sluice::serve
