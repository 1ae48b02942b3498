#include "api/auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace sluice::api {
namespace {

std::array<unsigned char, 32> digest(std::string_view text) {
  std::array<unsigned char, 32> bytes{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), bytes.data());
  return bytes;
}

}  // namespace

Auth::Auth(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    if (key.empty()) fail(Code::kInvalidArgument, "an API key is empty");
    digests_.push_back(digest(key));
  }
}

bool Auth::allows(const HttpRequest& request) const {
  if (digests_.empty()) return true;
  std::string_view value = request.header("Authorization");
  constexpr std::string_view kScheme = "bearer ";
  if (value.size() < kScheme.size()) return false;
  for (size_t i = 0; i < kScheme.size(); ++i) {
    if ((value[i] | 0x20) != kScheme[i] && value[i] != kScheme[i]) return false;
  }
  value.remove_prefix(kScheme.size());
  while (value.starts_with(' ')) value.remove_prefix(1);
  while (value.ends_with(' ')) value.remove_suffix(1);
  std::array<unsigned char, 32> sent = digest(value);
  bool matches = false;
  for (const auto& known : digests_) matches |= CRYPTO_memcmp(sent.data(), known.data(), sent.size()) == 0;
  return matches;
}

Cors::Cors(std::vector<std::string> origins) : origins_(std::move(origins)) {
  any_origin_ = std::find(origins_.begin(), origins_.end(), "*") != origins_.end();
}

bool Cors::allows(std::string_view origin) const {
  return any_origin_ || std::find(origins_.begin(), origins_.end(), origin) != origins_.end();
}

void Cors::add_headers(const HttpRequest& request, HttpReply& reply) const {
  std::string_view origin = request.header("Origin");
  if (origin.empty()) return;
  if (!any_origin_) reply.headers.push_back({"Vary", "Origin"});
  if (!allows(origin)) return;
  reply.headers.push_back({"Access-Control-Allow-Origin", any_origin_ ? "*" : std::string(origin)});
  reply.headers.push_back({"Access-Control-Expose-Headers", "X-Request-Id, Retry-After"});
}

HttpReply Cors::preflight(const HttpRequest& request) const {
  HttpReply reply;
  reply.status = 204;
  if (!allows(request.header("Origin"))) {
    reply.status = 403;
    return reply;
  }
  std::string_view headers = request.header("Access-Control-Request-Headers");
  reply.headers.push_back({"Access-Control-Allow-Methods", "GET, POST, OPTIONS, HEAD"});
  reply.headers.push_back({"Access-Control-Allow-Headers", headers.empty() ? "*" : std::string(headers)});
  reply.headers.push_back({"Access-Control-Max-Age", "600"});
  return reply;
}

}  // namespace sluice::api
