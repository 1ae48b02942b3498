// API keys and CORS: what is decided before a route is looked at.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "api/http.h"

namespace sluice::api {

// Keeps SHA-256 of the keys only. Comparing takes the same time wherever the keys differ, and over all of them.
class Auth {
 public:
  // Throws Error for an empty key. No keys: everybody may do everything.
  explicit Auth(const std::vector<std::string>& keys);
  // Looks at "Authorization: Bearer KEY".
  bool allows(const HttpRequest& request) const;
  bool is_on() const { return !digests_.empty(); }

 private:
  std::vector<std::array<unsigned char, 32>> digests_;
};

// Who may call from a web page.
class Cors {
 public:
  explicit Cors(std::vector<std::string> origins);  // "*": everybody
  // Adds the headers that let the page at the request's Origin read the reply.
  void add_headers(const HttpRequest& request, HttpReply& reply) const;
  // The answer to a preflight (OPTIONS with Access-Control-Request-Method).
  HttpReply preflight(const HttpRequest& request) const;

 private:
  bool allows(std::string_view origin) const;
  std::vector<std::string> origins_;
  bool any_origin_ = false;
};

}  // namespace sluice::api
