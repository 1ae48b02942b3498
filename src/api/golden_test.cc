// Replays tests/golden/openai/*.txt against a server with a fake model. A transcript is a request, a line
// "---", and the whole reply, with <any> for ids and times. SLUICE_UPDATE_GOLDEN=1 rewrites the replies; review
// the difference.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "api/server.h"
#include "api/test_client.h"
#include "base/log.h"
#include "base/mmap.h"
#include "serve/fake_model.h"

namespace sluice::api {
namespace {

const char kFolder[] = SLUICE_REPOSITORY "/tests/golden/openai";

// Ids and times become <any>; headers that say nothing about the reply are left out.
std::string normalise(const TestReply& reply) {
  std::string text;
  std::istringstream head(reply.head);
  for (std::string line; std::getline(head, line);) {
    while (line.ends_with('\r')) line.pop_back();
    if (line.starts_with("Date:") || line.starts_with("Content-Length:") || line.starts_with("Connection:")) continue;
    if (!line.empty()) text += line + "\n";
  }
  text += "\n" + reply.body;
  if (!text.ends_with('\n')) text += '\n';
  for (const auto& [pattern, replacement] : std::initializer_list<std::pair<const char*, const char*>>{
           {"(\"id\":\"[a-z]+-)[0-9a-f]{32}", "$1<any>"},
           {"(X-Request-Id: )[0-9a-f]{32}", "$1<any>"},
           {"(\"created\":)[0-9]+", "$1<any>"},
           {"(\"system_fingerprint\":\")[^\"]*", "$1<any>"},
           {"(\\{\"version\":\")[^\"]*", "$1<any>"}}) {
    text = std::regex_replace(text, std::regex(pattern), replacement);
  }
  return text;
}

// "POST /path", headers, an empty line and a body, with plain line ends, to bytes on the wire.
std::string to_wire(const std::string& text) {
  size_t blank = text.find("\n\n");
  std::string head = text.substr(0, blank), body = blank == std::string::npos ? "" : text.substr(blank + 2);
  while (body.ends_with('\n')) body.pop_back();
  while (head.ends_with('\n')) head.pop_back();
  std::string wire;
  std::istringstream lines(head);
  for (std::string line; std::getline(lines, line);)
    wire += line + (wire.empty() ? " HTTP/1.1\r\nHost: test\r\n" : "\r\n");
  if (!body.empty()) wire += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  return wire + "\r\n" + body;
}

TEST(Golden, OpenAi) {
  log::configure(log::Level::kError, log::Format::kText);
  serve::Repository repository;
  repository.add({"fake"}, std::make_shared<serve::FakeModel>());
  ServerOptions options;
  options.http.port = 0;
  Server server(options, repository);
  server.start();

  const char* wish = std::getenv("SLUICE_UPDATE_GOLDEN");
  bool updates = wish != nullptr && std::string(wish) == "1";
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  ASSERT_GE(files.size(), 20u);
  for (const std::filesystem::path& file : files) {
    std::string transcript = read_file(file.string());
    size_t line = transcript.find("---\n");
    if (line == std::string::npos) line = transcript.size();
    std::string request = transcript.substr(0, line);
    TestClient client(server.port());
    ASSERT_TRUE(client.send(to_wire(request)));
    std::string reply = normalise(client.read_reply());
    if (updates) {
      std::ofstream(file) << request << "---\n" << reply;
    } else {
      EXPECT_EQ(transcript.substr(std::min(transcript.size(), line + 4)), reply) << file;
    }
  }
}

}  // namespace
}  // namespace sluice::api
