// Which function answers which path. One table, filled at start, read by every worker thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "api/http.h"

namespace sluice::api {

struct Route {
  std::string method;   // "GET" answers HEAD too
  std::string path;     // "/v1/models", or "/v1/models/*": anything below, slashes included
  std::function<HttpReply(const HttpRequest& request, const std::string& rest, Wake wake)>
      handle;                      // rest: what '*' matched
  bool is_public = false;          // needs no API key
  bool works_when_draining = false;
};

class Routes {
 public:
  void add(Route route) { routes_.push_back(std::move(route)); }
  // The route; null if there is none of that path (`allowed` empty) or none of that method (`allowed` names those).
  const Route* find(const std::string& method, const std::string& path, std::string& rest,
                    std::string& allowed) const;
  const std::vector<Route>& all() const { return routes_; }

 private:
  std::vector<Route> routes_;
};

}  // namespace sluice::api
