#include "api/routes.h"

#include <string_view>

namespace sluice::api {

const Route* Routes::find(const std::string& method, const std::string& path, std::string& rest,
                          std::string& allowed) const {
  allowed.clear();
  for (const Route& route : routes_) {
    if (route.path.ends_with('*')) {
      std::string_view prefix(route.path.data(), route.path.size() - 1);
      if (!path.starts_with(prefix) || path.size() == prefix.size()) continue;
      rest = path.substr(prefix.size());
    } else if (route.path != path) {
      continue;
    } else {
      rest.clear();
    }
    if (route.method == method || (method == "HEAD" && route.method == "GET")) return &route;
    allowed += allowed.empty() ? route.method : ", " + route.method;
    if (route.method == "GET") allowed += ", HEAD";
  }
  if (!allowed.empty()) allowed += ", OPTIONS";
  return nullptr;
}

}  // namespace sluice::api
