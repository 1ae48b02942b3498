// Server-sent events: the framing of streamed replies.
#pragma once

#include <string>
#include <vector>

#include "api/http.h"
#include "base/json.h"

namespace sluice::api {

inline void append_event(std::string& out, const json::value& data) {
  out += "data: ";
  out += json::serialize(data);
  out += "\n\n";
}

inline void append_done(std::string& out) { out += "data: [DONE]\n\n"; }

inline std::vector<Header> event_stream_headers() {
  return {{"Content-Type", "text/event-stream; charset=utf-8"},
          {"Cache-Control", "no-cache"},
          {"X-Accel-Buffering", "no"}};
}

}  // namespace sluice::api
