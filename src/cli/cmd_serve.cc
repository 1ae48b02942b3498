// sluice serve: one model behind the OpenAI API.
#include <cstdio>
#include <filesystem>

#include "api/server.h"
#include "base/env.h"
#include "base/error.h"
#include "base/log.h"
#include "base/trace.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/graph_load.h"
#include "serve/backend_llm.h"
#include "serve/repository.h"

namespace sluice::cli {
namespace {

struct Flags {
  std::string model, trace;
  int64_t max_body_bytes = 64 << 20;
  std::vector<std::string> served_names;
  double drain_timeout = 30, request_timeout = 0;
  api::ServerOptions server;
  engine::LoadOptions load;
  EngineFlags engine;
};

std::string name_of(const std::string& path) {
  std::filesystem::path p = std::filesystem::path(path).lexically_normal();
  if (!p.has_filename()) p = p.parent_path();
  std::string name = p.filename().string();
  for (const char* ending : {".gguf", ".safetensors"}) {
    if (name.ends_with(ending)) return name.substr(0, name.size() - std::string_view(ending).size());
  }
  return name;
}

// A line that can be pasted, against the model as it is now served.
std::string try_it(const Flags& flags, const std::string& url, bool has_template) {
  std::string where = flags.server.http.uds.empty() ? url : "--unix-socket " + flags.server.http.uds + " http://localhost";
  std::string key = flags.server.api_keys.empty() ? "" : " -H 'Authorization: Bearer YOUR_KEY'";
  std::string body = has_template ? R"({"messages": [{"role": "user", "content": "Once upon a time"}], "max_tokens": 100})"
                                  : R"({"prompt": "Once upon a time", "max_tokens": 100})";
  return fmt::format("curl {}/v1/{}{} -H 'Content-Type: application/json' \\\n    -d '{}'", where,
                     has_template ? "chat/completions" : "completions", key, body);
}

void run(Flags& flags) {
  const bool is_builtin = flags.model.empty();
  if (is_builtin) flags.model = builtin_model_path();
  refuse_graph(flags.model, "serve");
  if (!flags.trace.empty()) trace::enable();
  if (flags.server.api_keys.empty()) {
    if (auto key = env::find("SLUICE_API_KEY")) flags.server.api_keys.push_back(*key);
  }
  flags.server.http.body_bytes_max = static_cast<size_t>(flags.max_body_bytes);
  flags.server.drain_timeout_ms = static_cast<int64_t>(flags.drain_timeout * 1000);
  flags.server.request_timeout_ms = static_cast<int64_t>(flags.request_timeout * 1000);
  if (flags.served_names.empty()) {
    flags.served_names = {name_of(flags.model)};
    if (!is_builtin && flags.model != flags.served_names[0]) flags.served_names.push_back(flags.model);
  }

  serve::Repository repository;
  engine::LoadedModel loaded = engine::load(flags.model, flags.load);
  const bool has_template = loaded.chat_template != nullptr;
  std::string description = loaded.model->description();
  LOG(info, "loaded {} in {:.2f} s: {}", flags.model, loaded.load_seconds, description);
  serve::LlmOptions options;
  options.name = flags.served_names[0];
  options.engine = flags.engine.resolve(loaded);
  auto model = std::make_shared<serve::LlmModel>(std::move(loaded), options, &repository.metrics());
  repository.add(flags.served_names, model);

  api::Server server(flags.server, repository);
  server.start();
  const std::string& host = flags.server.http.host;
  if (flags.server.api_keys.empty() && flags.server.http.uds.empty() && host != "127.0.0.1" && host != "localhost" &&
      host != "::1") {
    LOG(warning, "listening on {} without --api-key: whoever can reach this machine can use the model", host);
  }
  std::printf("sluice serves %s%s (%s) on %s\n", is_builtin ? "the built-in model " : "", flags.served_names[0].c_str(),
              description.c_str(), server.url().c_str());
  if (is_builtin) std::printf("Point it at your own with: sluice serve --model FILE.gguf (or a Hugging Face folder)\n");
  std::printf("Try it:\n  %s\n", try_it(flags, server.url(), has_template).c_str());
  std::fflush(stdout);
  server.run_until_signal();
  if (!flags.trace.empty()) trace::save(flags.trace);
}

}  // namespace

void add_serve(CLI::App& parent) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = parent.add_subcommand("serve", "Serve a model over the OpenAI API");
  command->add_option("model,--model", flags->model, "GGUF file or Hugging Face folder; default: the built-in model");
  command->add_option("--served-model-name", flags->served_names, "name that requests use, or several: a,b; default: the file's")
      ->delimiter(',')->allow_extra_args(false)->check(is_not_empty);
  api::HttpOptions& http = flags->server.http;
  auto* group = "Server";
  command->add_option("--host", http.host, "address to listen on; 0.0.0.0 for all")->capture_default_str()->group(group);
  command->add_option("--port", http.port, "port to listen on; 0: any free one")
      ->check(CLI::Range(0, 65535))->capture_default_str()->group(group);
  command->add_option("--uds", http.uds, "a Unix socket instead")->group(group);
  command->add_option("--api-key", flags->server.api_keys, "key that clients must send; may be given several times; default: $SLUICE_API_KEY")
      ->allow_extra_args(false)->check(is_not_empty)->group(group);
  CLI::Option* certificate =
      command->add_option("--ssl-certfile", http.ssl_certfile, "PEM certificate chain: serve HTTPS")->group(group);
  command->add_option("--ssl-keyfile", http.ssl_keyfile, "its PEM key; default: it is in the same file")
      ->needs(certificate)->group(group);
  command->add_option("--allowed-origins", flags->server.allowed_origins, "web pages that may call, such as https://a.org,https://b.org")
      ->delimiter(',')->allow_extra_args(false)->capture_default_str()->group(group);
  add_bytes_option(*command, "--max-body-size", flags->max_body_bytes, "largest request body [64M]")->group(group);
  command->add_option("--max-connections", http.connections_max, "open connections at most")
      ->check(CLI::PositiveNumber)->capture_default_str()->group(group);
  command->add_option("--drain-timeout", flags->drain_timeout, "seconds for running requests to finish after SIGTERM")
      ->check(CLI::Range(0.0, 86400.0))->capture_default_str()->group(group);
  command->add_option("--request-timeout", flags->request_timeout, "seconds a request may take; 0: no limit")
      ->check(CLI::Range(0.0, 86400.0))->capture_default_str()->group(group);
  command->add_option("--max-logprobs", flags->server.limits.max_logprobs, "most likely tokens a request may ask for; -1: any number")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 20))->capture_default_str()->group(group);
  command->add_flag("--trust-request-chat-template", flags->server.limits.trust_request_chat_template,
                    "let requests bring their own chat template")->group(group);
  command->add_flag("--enable-prompt-tokens-details", flags->server.limits.enable_prompt_tokens_details,
                    "report cached prompt tokens in the usage of each answer")->group(group);
  command->add_option("--trace", flags->trace, "write a trace for Perfetto to this file at the end")->group(group);
  add_load_flags(*command, flags->load);
  add_engine_flags(*command, flags->engine);
  command->callback([flags] { run(*flags); });
}

}  // namespace sluice::cli
