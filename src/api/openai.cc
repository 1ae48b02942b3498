#include "api/openai.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "api/errors.h"
#include "api/openai_chat.h"
#include "api/openai_completions.h"
#include "api/sse.h"
#include "api/utf8.h"
#include "base/clock.h"
#include "base/error.h"

namespace sluice::api {
namespace {

// The generations of one HTTP request, and the models that they run on. Destroying it cancels what is not done.
class Generations {
 public:
  Generations(OpenAiContext& context, const std::string& model_name)
      : context_(context), model_(context.repository.get(model_name)) {
    ++context_.num_generating;
  }
  ~Generations() {
    list_.clear();
    --context_.num_generating;
  }
  Generations(const Generations&) = delete;
  Generations& operator=(const Generations&) = delete;

  void start(serve::GenerateRequest request, const HttpRequest& http, Wake wake) {
    request.arrival_us = http.received_us;
    if (context_.request_timeout_ms > 0) request.deadline_us = http.received_us + context_.request_timeout_ms * 1000;
    deadline_us_ = request.deadline_us;
    // Clients choose ids, and may choose one twice; inside they are unique.
    request.id += "-" + random_id().substr(0, 8);
    list_.push_back(model_->generate(std::move(request), std::move(wake)));
  }

  std::vector<std::unique_ptr<serve::Generation>>& list() { return list_; }
  const serve::Model& model() const { return *model_; }
  bool done() const {
    for (const auto& generation : list_) {
      if (!generation->done()) return false;
    }
    return true;
  }
  bool has_more() const {
    for (const auto& generation : list_) {
      if (generation->has_more()) return true;
    }
    return false;
  }
  serve::Usage usage() const {
    serve::Usage total;
    for (const auto& generation : list_) {
      serve::Usage usage = generation->usage();
      total.prompt_tokens += usage.prompt_tokens;
      total.completion_tokens += usage.completion_tokens;
      total.cached_tokens += usage.cached_tokens;
    }
    return total;
  }
  Progress progress(HttpReply& reply) const {
    if (has_more()) return Progress::kMore;
    if (deadline_us_ != 0) reply.wait_ms_max = std::max<int64_t>(1, (deadline_us_ - monotonic_us()) / 1000 + 1);
    return Progress::kWait;
  }

 private:
  OpenAiContext& context_;
  std::shared_ptr<serve::Model> model_;
  std::vector<std::unique_ptr<serve::Generation>> list_;
  int64_t deadline_us_ = 0;
};

void replace_by_error(HttpReply& reply, const Error& error) {
  HttpReply failed = error_reply(error);
  reply.status = failed.status;
  for (Header& header : reply.headers) {  // X-Request-Id, CORS
    if (header.name.starts_with("X-Request") || header.name.starts_with("Access") || header.name == "Vary") {
      failed.headers.push_back(std::move(header));
    }
  }
  reply.headers = std::move(failed.headers);
  reply.body = std::move(failed.body);
  reply.streams = false;
}

// A reply whose chunks are gathered, and formatted at the end. `format` is called once everything is there.
template <typename Format>
HttpReply gathered_reply(std::shared_ptr<Generations> running, int n, Format format) {
  HttpReply reply;
  reply.headers.push_back({"Content-Type", "application/json"});
  auto choices = std::make_shared<std::vector<Choice>>(running->list().size() * static_cast<size_t>(n));
  reply.advance = [running, choices, n, format](HttpReply& reply) {
    try {
      for (size_t i = 0; i < running->list().size(); ++i) {
        for (serve::Chunk& chunk : running->list()[i]->take()) {
          if (chunk.error) throw *chunk.error;
          (*choices)[i * static_cast<size_t>(n) + static_cast<size_t>(chunk.index)].add(std::move(chunk));
        }
      }
      if (!running->done()) return running->progress(reply);
      reply.body = json::serialize(format(*running, *choices));
    } catch (...) {
      replace_by_error(reply, to_error(std::current_exception()));
    }
    return Progress::kDone;
  };
  return reply;
}

// A reply of server-sent events. `append(out, generation, prompt index, chunk)` writes the events of one chunk,
// `finish(out)` those before [DONE].
template <typename Append, typename Finish>
HttpReply streamed_reply(std::shared_ptr<Generations> running, Append append, Finish finish) {
  HttpReply reply;
  reply.headers = event_stream_headers();
  reply.streams = true;
  auto has_begun = std::make_shared<bool>(false);
  reply.advance = [running, has_begun, append, finish](HttpReply& reply) mutable {
    try {
      for (size_t i = 0; i < running->list().size(); ++i) {
        serve::Generation& generation = *running->list()[i];
        for (serve::Chunk& chunk : generation.take()) {
          if (chunk.error) throw *chunk.error;
          append(reply.body, generation, i, chunk);
        }
      }
      *has_begun = *has_begun || !reply.body.empty();
      if (!running->done()) return running->progress(reply);
      finish(reply.body);
      append_done(reply.body);
    } catch (...) {
      Error error = to_error(std::current_exception());
      if (*has_begun || !reply.body.empty()) {  // the status has been sent: an event must say it
        append_event(reply.body, error_body(error));
        append_done(reply.body);
      } else {
        replace_by_error(reply, error);
      }
    }
    return Progress::kDone;
  };
  return reply;
}

EchoedPrompt echoed(const serve::Generation& generation) {
  return {generation.prompt_text(), generation.prompt(), generation.prompt_logprobs()};
}

// A chunk that says nothing to this client is not sent.
bool is_worth_sending(const serve::Chunk& chunk, const OpenAiAnswer& answer) {
  return !chunk.text.empty() || chunk.finish_reason != serve::FinishReason::kNone ||
         (answer.wants_logprobs && !chunk.logprobs.empty()) || (answer.return_token_ids && !chunk.tokens.empty());
}

// For continuous_usage_stats: the usage of one choice so far.
void add_usage(json::object& event, const OpenAiAnswer& answer, const serve::Generation& generation,
               int64_t num_tokens) {
  if (!answer.continuous_usage) return;
  serve::Usage usage = generation.usage();
  usage.completion_tokens = num_tokens;
  event["usage"] = usage_json(usage, answer);
}

// The answer names the model as the client did, or by its first name.
void name_model(OpenAiAnswer& answer, const Generations& running) {
  if (answer.model.empty()) answer.model = running.model().info().name;
}

// The key of the outermost object inside which byte `end` is, or inside which the first number too large for a double
// is. Takes any text: it is for bodies that are no JSON.
std::string find_top_level_field(std::string_view text, size_t end) {
  std::string field;
  int depth = 0;
  bool wants_key = false;
  for (size_t i = 0; i < std::min(end, text.size()); ++i) {
    char c = text[i];
    if (c == '"') {
      size_t begin = ++i;
      while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
      if (depth == 1 && wants_key && i < end) field = std::string(text.substr(begin, i - begin));
      wants_key = false;
    } else if (c == '{' || c == '[') {
      wants_key = ++depth == 1 && c == '{';
    } else if (c == '}' || c == ']') {
      if (--depth == 0) field.clear();
    } else if (c == ',') {
      wants_key = depth == 1;
    } else if (c == '-' || (c >= '0' && c <= '9')) {
      size_t length = std::min(text.find_first_not_of("0123456789+-.eE", i), text.size()) - i;
      if (!std::isfinite(std::strtod(std::string(text.substr(i, length)).c_str(), nullptr))) return field;
      i += length - 1;
    }
  }
  return field;
}

// json::parse() knows bytes; the sender thinks in fields.
Error explain_bad_json(const std::string& body, const Error& error) {
  if (size_t bad = find_invalid_utf8(body); bad != std::string::npos) {
    std::string field = find_top_level_field(body, bad);
    return Error(error.code(), fmt::format("the request's body is not valid UTF-8: byte {}{}", bad,
                                           field.empty() ? "" : ", in the field '" + field + "'"), field);
  }
  size_t at = error.message().rfind("at byte ");
  size_t end = at == std::string::npos ? body.size() : std::strtoul(error.message().c_str() + at + 8, nullptr, 10);
  std::string field = find_top_level_field(body, end);
  if (field.empty()) return error;
  return Error(error.code(), fmt::format("{}, in the field '{}'", error.message(), field), field);
}

std::string id_without_prefix(const std::string& id) { return id.substr(id.find('-') + 1); }

json::object model_json(const serve::Repository::Entry& entry) {
  const serve::ModelInfo& info = entry.model->info();
  json::object object;
  object["id"] = entry.name;
  object["object"] = "model";
  object["created"] = info.created;
  object["owned_by"] = "sluice";
  object["root"] = info.name;
  object["parent"] = nullptr;
  object["max_model_len"] = info.max_model_len;
  object["permission"] = json::array();
  // As llama.cpp's server tells them; a benchmark wants to know.
  if (info.weight_bytes > 0) object["meta"] = {{"n_params", info.num_parameters}, {"size", info.weight_bytes}};
  return object;
}

}  // namespace

json::object parse_body(const HttpRequest& request) {
  if (request.body.empty()) fail(Code::kInvalidArgument, "the request has no body: a JSON object is expected");
  // Not so by accident: a compressed body would only be reported as bad JSON.
  if (std::string_view coding = request.header("Content-Encoding"); !coding.empty() && coding != "identity") {
    fail(Code::kInvalidArgument, "the request's body is encoded as '{}'; send it as it is, without Content-Encoding",
         coding);
  }
  json::value value;
  try {
    value = json::parse(request.body);
  } catch (const Error& error) {
    throw explain_bad_json(request.body, error);
  }
  if (!value.is_object()) {
    fail(Code::kInvalidArgument, "the request's body must be a JSON object, not {}", json::describe(value));
  }
  return std::move(value.get_object());
}

HttpReply json_reply(const json::value& body) {
  HttpReply reply;
  reply.headers.push_back({"Content-Type", "application/json"});
  reply.body = json::serialize(body);
  return reply;
}

HttpReply serve_models(OpenAiContext& context) {
  json::array data;
  for (const serve::Repository::Entry& entry : context.repository.entries()) data.push_back(model_json(entry));
  return json_reply(json::object{{"object", "list"}, {"data", std::move(data)}});
}

HttpReply serve_model(OpenAiContext& context, const std::string& name) {
  context.repository.get(name);
  for (const serve::Repository::Entry& entry : context.repository.entries()) {
    if (entry.name == name) return json_reply(model_json(entry));
  }
  return serve_models(context);
}

HttpReply serve_completion(OpenAiContext& context, const HttpRequest& http, Wake wake) {
  auto request = std::make_shared<CompletionRequest>(
      parse_completion(parse_body(http), context.limits, http.header("X-Request-Id")));
  OpenAiAnswer& answer = request->answer;
  auto running = std::make_shared<Generations>(context, answer.model);
  name_model(answer, *running);
  int n = request->prompts.front().n;
  for (serve::GenerateRequest& prompt : request->prompts) running->start(std::move(prompt), http, wake);

  HttpReply reply;
  if (answer.stream) {
    auto streams = std::make_shared<std::vector<CompletionStream>>(running->list().size() * static_cast<size_t>(n));
    auto append = [request, streams, n](std::string& out, serve::Generation& generation, size_t prompt_index,
                                        serve::Chunk& chunk) {
      size_t index = prompt_index * static_cast<size_t>(n) + static_cast<size_t>(chunk.index);
      CompletionStream& stream = (*streams)[index];
      const OpenAiAnswer& answer = request->answer;
      bool is_echo = answer.echo && !stream.has_begun;
      if (!is_worth_sending(chunk, answer) && !is_echo) return;
      EchoedPrompt prompt = stream.has_begun ? EchoedPrompt{} : echoed(generation);
      json::object event = format_completion_chunk(answer, static_cast<int>(index), chunk, prompt, stream);
      add_usage(event, answer, generation, chunk.num_tokens);
      append_event(out, std::move(event));
    };
    auto finish = [request, running = running.get()](std::string& out) {
      if (request->answer.include_usage)
        append_event(out, format_completion_usage(request->answer, running->usage()));
    };
    reply = streamed_reply(running, append, finish);
  } else {
    reply = gathered_reply(running, n, [request](Generations& running, const std::vector<Choice>& choices) {
      std::vector<EchoedPrompt> prompts;
      for (const auto& generation : running.list()) prompts.push_back(echoed(*generation));
      return format_completion(request->answer, choices, prompts, running.usage());
    });
  }
  reply.headers.push_back({"X-Request-Id", id_without_prefix(answer.id)});
  return reply;
}

HttpReply serve_chat(OpenAiContext& context, const HttpRequest& http, Wake wake) {
  auto request =
      std::make_shared<ChatRequest>(parse_chat(parse_body(http), context.limits, http.header("X-Request-Id")));
  OpenAiAnswer& answer = request->answer;
  auto running = std::make_shared<Generations>(context, answer.model);
  name_model(answer, *running);
  int n = request->generate.n;
  running->start(std::move(request->generate), http, std::move(wake));

  HttpReply reply;
  if (answer.stream) {
    auto has_role = std::make_shared<std::vector<bool>>(static_cast<size_t>(n));
    auto append = [request, has_role](std::string& out, serve::Generation& generation, size_t, serve::Chunk& chunk) {
      size_t index = static_cast<size_t>(chunk.index);
      if (!(*has_role)[index]) {
        (*has_role)[index] = true;
        json::object event = format_chat_role(*request, chunk.index, echoed(generation));
        add_usage(event, request->answer, generation, 0);
        append_event(out, std::move(event));
      }
      if (!is_worth_sending(chunk, request->answer)) return;
      json::object event = format_chat_chunk(*request, chunk);
      add_usage(event, request->answer, generation, chunk.num_tokens);
      append_event(out, std::move(event));
    };
    auto finish = [request, running = running.get()](std::string& out) {
      if (request->answer.include_usage) append_event(out, format_chat_usage(*request, running->usage()));
    };
    reply = streamed_reply(running, append, finish);
  } else {
    reply = gathered_reply(running, n, [request](Generations& running, const std::vector<Choice>& choices) {
      return format_chat(*request, choices, echoed(*running.list().front()), running.usage());
    });
  }
  reply.headers.push_back({"X-Request-Id", id_without_prefix(answer.id)});
  return reply;
}

}  // namespace sluice::api
