#include "engine/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace sluice::engine {
namespace {

constexpr int kMaxCrowdedLookups = 8;

SchedulerOptions complete(SchedulerOptions options) {
  if (options.long_prefill_token_threshold <= 0) {
    options.long_prefill_token_threshold = std::max<int64_t>(1, options.max_num_batched_tokens / 2);
  }
  return options;
}

bool contains(const std::vector<int32_t>& values, int32_t value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

}  // namespace

void Plan::clear() {
  batch.clear();
  scheduled.clear();
  samples.clear();
  prompt_logits.clear();
  ended.clear();
}

Scheduler::Scheduler(const SchedulerOptions& options, const BlockManagerOptions& pages)
    : options_(complete(options)),
      pages_(pages),
      earlier_{options.policy == SchedulingPolicy::kPriority},
      waiting_(earlier_) {
  CHECK(options_.max_num_seqs >= 1 && options_.max_num_seqs <= options_.max_num_batched_tokens,
        options_.max_num_seqs, options_.max_num_batched_tokens);
  CHECK(options_.max_prompt_logit_rows >= 1 && options_.max_model_len >= 1);
}

void Scheduler::add(std::unique_ptr<RequestState> request) {
  Sequence& first = *request->sequences.front();
  CHECK(first.num_tokens() >= 1 && first.num_tokens() <= options_.max_model_len,
        first.num_tokens());
  request->arrival_index = ++num_arrivals_;
  auto [position, is_new] = requests_.try_emplace(request->request.id, std::move(request));
  CHECK(is_new, position->first);
  waiting_.insert(&first);
}

RequestState* Scheduler::find(const std::string& request_id) {
  auto position = requests_.find(request_id);
  return position == requests_.end() ? nullptr : position->second.get();
}

// How many of the sequence's tokens fit into the rest of the step; 0: none.
int64_t Scheduler::choose_chunk(const Sequence& sequence, int64_t num_remaining,
                                int64_t num_computed, bool is_decode, const Budget& budget) const {
  if (is_decode) return 1;  // set aside when the step began
  int64_t chunk = std::min(num_remaining, budget.prefill);
  if (num_remaining > options_.long_prefill_token_threshold)
    chunk = std::min(chunk, budget.long_prefill);
  if (sequence.index == 0 && sequence.request->num_prompt_logprobs_left() > 0) {
    // Positions whose logprobs are known from before a preemption need no logits again.
    int64_t known =
        std::max<int64_t>(1, static_cast<int64_t>(sequence.request->prompt_logprobs.size())) - 1 -
        num_computed;
    chunk = std::min(chunk, std::max<int64_t>(0, known) + budget.prompt_rows);
  }
  return chunk;
}

void Scheduler::schedule(Sequence& sequence, int64_t num_tokens, bool is_decode, Budget& budget) {
  RequestState& request = *sequence.request;
  llm::Batch& batch = plan_.batch;
  if (!is_decode) {
    budget.prefill -= num_tokens;
    if (sequence.num_remaining() > options_.long_prefill_token_threshold)
      budget.long_prefill -= num_tokens;
  }
  int64_t first_token = static_cast<int64_t>(batch.tokens.size());
  int64_t begin = sequence.num_computed, end = begin + num_tokens;
  batch.tokens.insert(batch.tokens.end(), sequence.tokens.begin() + begin,
                      sequence.tokens.begin() + end);
  batch.sequences.push_back({.first_token = first_token,
                             .num_tokens = num_tokens,
                             .first_position = begin,
                             .pages = sequence.table.pages.data()});
  plan_.scheduled.push_back({.sequence = &sequence, .num_tokens = num_tokens});

  auto add_row = [&](int64_t position) {
    batch.logit_tokens.push_back(static_cast<int32_t>(first_token + position - begin));
    return static_cast<int32_t>(batch.logit_tokens.size()) - 1;
  };
  if (sequence.index == 0 && request.num_prompt_logprobs_left() > 0) {
    int64_t next = std::max<int64_t>(1, static_cast<int64_t>(request.prompt_logprobs.size()));
    for (int64_t position = next; position < sequence.num_prompt_tokens && position - 1 < end;
         ++position) {
      plan_.prompt_logits.push_back(
          {.sequence = &sequence, .position = position, .logit_row = add_row(position - 1)});
      --budget.prompt_rows;
    }
  }
  if (end < sequence.num_tokens() || request.sampling().max_tokens == 0) return;
  int32_t row = add_row(end - 1);
  plan_.samples.push_back({.sequence = &sequence, .logit_row = row});
  if (request.is_forked()) return;
  fork(request, /*is_over=*/false);
  for (size_t i = 1; i < request.sequences.size(); ++i) {
    plan_.samples.push_back({.sequence = request.sequences[i].get(), .logit_row = row});
  }
}

// Makes sequences 1.. of a request. They are in no list and hold no pages before commit() has their
// first token. Of a request that is over they need no tokens, only an end to be reported.
void Scheduler::fork(RequestState& request, bool is_over) {
  const Sequence& first = *request.sequences.front();
  for (int index = 1; index < request.request.num_sequences; ++index) {
    auto sequence = std::make_unique<Sequence>();
    sequence->request = &request;
    sequence->index = index;
    request.sequences.push_back(std::move(sequence));
    if (is_over) continue;
    Sequence& sibling = *request.sequences.back();
    sibling.tokens.assign(first.tokens.begin(), first.tokens.begin() + first.num_prompt_tokens);
    sibling.num_prompt_tokens = first.num_prompt_tokens;
    if (request.counts_tokens) {
      for (int32_t token : sibling.tokens) sibling.output_counts.emplace(token, 0);
    }
  }
}

void Scheduler::preempt(Sequence& sequence) {
  CHECK(running_.back() == &sequence);
  running_.pop_back();
  pages_.release(sequence.table);
  sequence.num_computed = 0;
  sequence.state = SequenceState::kWaiting;
  waiting_.insert(&sequence);
  ++stats_.num_preemptions;
  preempted_in_step_ = true;
}

void Scheduler::start_running(Sequence& sequence) {
  sequence.state = SequenceState::kRunning;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &sequence, earlier_),
                  &sequence);
}

void Scheduler::end_out_of_pages(Sequence& sequence) {
  plan_.ended.push_back(&sequence);
  if (sequence.request->is_forked()) {
    finish(sequence, FinishReason::kLength);
  } else {
    finish_all(*sequence.request, FinishReason::kLength);
  }
}

void Scheduler::schedule_running(Budget& budget) {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    bool is_decode = sequence.num_remaining() == 1;
    int64_t chunk =
        choose_chunk(sequence, sequence.num_remaining(), sequence.num_computed, is_decode, budget);
    if (chunk == 0) continue;
    // Victims come from the end of the list, so they are never part of the plan yet.
    bool is_ready;
    while (!(is_ready = pages_.prepare_write(sequence.table, sequence.num_computed, chunk,
                                             plan_.batch.page_copies)) &&
           running_.size() > i + 1) {
      preempt(*running_.back());
    }
    if (is_ready) {
      schedule(sequence, chunk, is_decode, budget);
    } else if (i > 0) {
      preempt(sequence);
    } else {
      end_out_of_pages(sequence);  // it holds every page there is
      return;
    }
  }
}

void Scheduler::schedule_waiting(int64_t now_us, Budget& budget) {
  // Pages that running sequences still need for the tokens they have.
  int64_t num_promised = 0;
  for (const Sequence* sequence : running_) {
    num_promised += std::max<int64_t>(0, count_pages(sequence->num_tokens()) -
                                             static_cast<int64_t>(sequence->table.pages.size()));
  }
  int num_lookups_left = kMaxCrowdedLookups;
  for (auto position = waiting_.begin(); position != waiting_.end();) {
    if (static_cast<int64_t>(running_.size()) >= options_.max_num_seqs || budget.prefill == 0)
      return;
    Sequence& sequence = **position;
    RequestState& request = *sequence.request;
    // Other long prompts, or other prompts with logprobs, may have used up this step's part for
    // them. Shorter requests need not wait behind such a one, nor does it if the prefix cache makes
    // it short; few are looked up to know.
    bool is_crowded_out = (sequence.num_tokens() > options_.long_prefill_token_threshold &&
                           budget.long_prefill == 0) ||
                          (request.num_prompt_logprobs_left() > 0 && budget.prompt_rows == 0);
    if (is_crowded_out && num_lookups_left-- <= 0) {
      ++position;
      continue;
    }
    std::span<const int32_t> tokens(sequence.tokens);
    bool may_use_cache = sequence.index > 0 || request.num_prompt_logprobs_left() <= 0;
    pages_.find_prefix(may_use_cache ? tokens : tokens.first(0), request.prefix_key, match_);
    // On a full hit the last token is computed again, for its logits, into a copy of the last page.
    // Without room for the copy the last page is computed again instead.
    if (static_cast<int64_t>(match_.pages.size()) * kTokensPerPage == sequence.num_tokens() &&
        pages_.num_free() - match_.num_unused < 1) {
      pages_.find_prefix(tokens.first(tokens.size() - 1), request.prefix_key, match_);
    }
    int64_t num_matched = static_cast<int64_t>(match_.pages.size()) * kTokensPerPage;
    bool is_full_hit = num_matched == sequence.num_tokens();
    int64_t num_computed = is_full_hit ? sequence.num_tokens() - 1 : num_matched;
    int64_t chunk =
        choose_chunk(sequence, sequence.num_tokens() - num_computed, num_computed, false, budget);
    if (chunk == 0) {
      ++position;
      continue;
    }
    // Unless it is alone, a sequence starts when all its tokens fit beside what is promised and one
    // page more for each running one; else it would soon be preempted again, or preempt others.
    int64_t num_free = pages_.num_free() - match_.num_unused;
    int64_t num_needed = count_pages(sequence.num_tokens()) -
                         static_cast<int64_t>(match_.pages.size()) + is_full_hit;
    if (!running_.empty() &&
        num_needed + num_promised + static_cast<int64_t>(running_.size()) > num_free)
      return;
    pages_.take_prefix(match_, sequence.table);
    sequence.num_computed = num_computed;
    position = waiting_.erase(position);
    if (!request.is_planned) {
      request.is_planned = true;
      request.timings.scheduled_us = now_us;
      request.num_cached_tokens = num_computed;
      if (may_use_cache) {
        stats_.prefix_cache_queries += sequence.num_tokens();
        stats_.prefix_cache_hits += num_computed;
      }
    }
    if (!pages_.prepare_write(sequence.table, num_computed, chunk, plan_.batch.page_copies)) {
      CHECK(running_.empty(), request.request.id);  // alone, and still too large
      end_out_of_pages(sequence);
      return;
    }
    start_running(sequence);
    schedule(sequence, chunk, false, budget);
    num_promised +=
        count_pages(sequence.num_tokens()) - static_cast<int64_t>(sequence.table.pages.size());
  }
}

const Plan& Scheduler::step(int64_t now_us, int64_t prefill_limit) {
  plan_.clear();
  preempted_in_step_ = false;
  int64_t num_decodes =
      std::count_if(running_.begin(), running_.end(),
                    [](const Sequence* sequence) { return sequence->num_remaining() == 1; });
  Budget budget;
  // At least 1 as long as something else runs, since at most max_num_batched_tokens run.
  budget.prefill = options_.max_num_batched_tokens - num_decodes;
  budget.long_prefill = options_.long_prefill_token_threshold;
  if (num_decodes > 0 && prefill_limit < budget.prefill) {
    budget.prefill = std::max<int64_t>(1, prefill_limit);
    // Short prompts keep their half of what is left, if there are any.
    auto is_short = [this](const Sequence* sequence) {
      return sequence->num_remaining() > 1 &&
             sequence->num_remaining() <= options_.long_prefill_token_threshold;
    };
    bool has_short = std::any_of(running_.begin(), running_.end(), is_short) ||
                     std::any_of(waiting_.begin(), waiting_.end(), is_short);
    budget.long_prefill = std::min(
        budget.long_prefill, std::max<int64_t>(1, has_short ? budget.prefill / 2 : budget.prefill));
  }
  budget.prompt_rows = options_.max_prompt_logit_rows;
  schedule_running(budget);
  if (!preempted_in_step_ && plan_.ended.empty()) schedule_waiting(now_us, budget);
  return plan_;
}

void Scheduler::check_stop(Sequence& sequence, int32_t token) const {
  const SamplingParams& sampling = sequence.request->sampling();
  // The sampler masks both kinds before min_tokens; a token that slips through (the prompt's) does
  // not stop.
  if (sequence.num_generated() > sampling.min_tokens) {
    if (!sampling.ignore_eos && contains(options_.end_tokens, token)) {
      sequence.finish_reason = FinishReason::kStop;
      sequence.stop_token = token;
      sequence.stopped_by_end_token = true;
      return;
    }
    if (contains(sampling.stop_token_ids, token)) {
      sequence.finish_reason = FinishReason::kStop;
      sequence.stop_token = token;
      return;
    }
  }
  if (sequence.num_generated() >= sampling.max_tokens ||
      sequence.num_tokens() >= options_.max_model_len) {
    sequence.finish_reason = FinishReason::kLength;
  }
}

void Scheduler::commit(const std::vector<int32_t>& tokens) {
  CHECK(tokens.size() == plan_.samples.size(), tokens.size(), plan_.samples.size());
  for (const ScheduledSequence& part : plan_.scheduled) {
    Sequence& sequence = *part.sequence;
    if (sequence.state == SequenceState::kFinished) continue;
    sequence.num_computed += part.num_tokens;
    pages_.register_full_pages(sequence.table, sequence.tokens, sequence.num_computed,
                               sequence.request->prefix_key);
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    Sequence& sequence = *plan_.samples[i].sequence;
    if (sequence.state == SequenceState::kFinished) continue;
    append_token(sequence, tokens[i]);
    check_stop(sequence, tokens[i]);
  }
  // New forks take their share before the first sequence may give its pages back.
  for (const Sample& sample : plan_.samples) {
    Sequence& sequence = *sample.sequence;
    bool is_new =
        sequence.state == SequenceState::kWaiting;  // whatever else was computed is running
    if (!is_new || sequence.finish_reason != FinishReason::kNone) continue;
    if (static_cast<int64_t>(running_.size()) < options_.max_num_seqs) {
      const Sequence& first = *sequence.request->sequences.front();
      pages_.share(first.table, sequence.table);
      sequence.num_computed = first.num_computed;
      start_running(sequence);
    } else {
      waiting_.insert(&sequence);  // no seat: it starts later, from the prefix cache
    }
  }
  for (const Sample& sample : plan_.samples) {
    if (sample.sequence->finish_reason != FinishReason::kNone)
      finish(*sample.sequence, sample.sequence->finish_reason);
  }
  // Prompts that were only to be computed.
  for (const ScheduledSequence& part : plan_.scheduled) {
    Sequence& sequence = *part.sequence;
    if (sequence.state == SequenceState::kFinished || sequence.num_remaining() > 0) continue;
    finish_all(*sequence.request, FinishReason::kLength);
  }
}

void Scheduler::finish(Sequence& sequence, FinishReason reason) {
  if (sequence.state == SequenceState::kFinished) return;
  if (sequence.state == SequenceState::kRunning) {
    running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  } else {
    waiting_.erase(&sequence);
  }
  pages_.release(sequence.table);
  sequence.state = SequenceState::kFinished;
  sequence.finish_reason = reason;
  --sequence.request->num_unfinished;
}

void Scheduler::finish_all(RequestState& request, FinishReason reason) {
  if (!request.is_forked()) fork(request, /*is_over=*/true);
  for (const std::unique_ptr<Sequence>& sequence : request.sequences) finish(*sequence, reason);
}

void Scheduler::remove(RequestState& request) {
  finish_all(request, FinishReason::kAbort);
  requests_.erase(request.request.id);
}

std::vector<RequestState*> Scheduler::requests() {
  std::vector<RequestState*> all;
  for (const auto& [id, request] : requests_) all.push_back(request.get());
  return all;
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.num_running = static_cast<int64_t>(running_.size());
  stats.num_waiting = static_cast<int64_t>(waiting_.size());
  return stats;
}

void Scheduler::check_integrity() const {
  std::vector<const PageTable*> tables;
  size_t num_running = 0, num_waiting = 0;
  for (const auto& [id, request] : requests_) {
    int num_unfinished =
        request->request.num_sequences - static_cast<int>(request->sequences.size());
    for (const std::unique_ptr<Sequence>& sequence : request->sequences) {
      bool is_running = sequence->state == SequenceState::kRunning;
      bool is_waiting = sequence->state == SequenceState::kWaiting;
      num_running += is_running;
      num_waiting += is_waiting;
      num_unfinished += is_running || is_waiting;
      int64_t num_pages = static_cast<int64_t>(sequence->table.pages.size());
      CHECK(is_running ? num_pages >= count_pages(sequence->num_computed) : num_pages == 0, id,
            sequence->index, num_pages);
      CHECK(!is_running || sequence->num_remaining() >= 1, id, sequence->index);
      CHECK(!is_waiting || waiting_.count(sequence.get()) == 1, id, sequence->index);
      tables.push_back(&sequence->table);
    }
    CHECK(num_unfinished == request->num_unfinished, id, num_unfinished, request->num_unfinished);
  }
  CHECK(num_running == running_.size() && num_waiting == waiting_.size(), num_running, num_waiting);
  CHECK(std::is_sorted(running_.begin(), running_.end(), earlier_));
  CHECK(static_cast<int64_t>(running_.size()) <= options_.max_num_seqs, running_.size());
  pages_.check_integrity(tables);
}

}  // namespace sluice::engine
