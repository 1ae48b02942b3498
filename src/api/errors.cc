#include "api/errors.h"

#include <new>

#include "api/utf8.h"
#include "base/error.h"
#include "base/log.h"

namespace sluice::api {
namespace {

HttpReply reply_with(int status, json::object body) {
  HttpReply reply;
  reply.status = status;
  reply.headers.push_back({"Content-Type", "application/json"});
  if (status == 429) reply.headers.push_back({"Retry-After", "1"});
  if (status == 503) reply.headers.push_back({"Retry-After", "5"});
  if (status == 401) reply.headers.push_back({"WWW-Authenticate", "Bearer"});
  reply.body = json::serialize(std::move(body));
  return reply;
}

// Messages quote what was sent; a megabyte of it helps nobody.
std::string shorten(const std::string& text, size_t bytes_max) {
  if (text.size() <= bytes_max) return to_valid_utf8(text);
  size_t kept = bytes_max;
  while (kept > 0 && (static_cast<unsigned char>(text[kept]) & 0xc0) == 0x80) --kept;  // whole characters
  return to_valid_utf8(std::string_view(text).substr(0, kept)) + fmt::format("... ({} bytes more)", text.size() - kept);
}

json::object body_with(int status, const std::string& message, const std::string& param) {
  json::object error;
  error["message"] = shorten(message, 2000);
  error["type"] = error_type(status);
  error["param"] = param.empty() ? json::value(nullptr) : json::value(shorten(param, 200));
  error["code"] = status == 401 ? json::value("invalid_api_key") : json::value(status);
  return {{"error", std::move(error)}};
}

}  // namespace

int http_status(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
    case Code::kOutOfRange:
    case Code::kFailedPrecondition: return 400;
    case Code::kUnauthenticated: return 401;
    case Code::kPermissionDenied: return 403;
    case Code::kNotFound: return 404;
    case Code::kAlreadyExists: return 409;
    case Code::kResourceExhausted: return 429;
    case Code::kCancelled: return 499;
    case Code::kUnimplemented: return 501;
    case Code::kUnavailable:
    case Code::kAborted: return 503;
    case Code::kDeadlineExceeded: return 504;
    case Code::kUnknown:
    case Code::kInternal:
    case Code::kDataLoss: return 500;
  }
  return 500;
}

const char* error_type(int status) {
  switch (status) {
    case 400:
    case 413:
    case 431:
    case 505: return "BadRequestError";
    case 401: return "AuthenticationError";
    case 403: return "PermissionDeniedError";
    case 404: return "NotFoundError";
    case 405: return "MethodNotAllowedError";
    case 409: return "ConflictError";
    case 422: return "UnprocessableEntityError";
    case 429: return "RateLimitError";
    case 501: return "NotImplementedError";
    case 503: return "ServiceUnavailableError";
    case 504: return "TimeoutError";
    default: return "InternalServerError";
  }
}

json::object error_body(const Error& error) {
  return body_with(http_status(error.code()), error.message(), error.param());
}

HttpReply error_reply(const Error& error) { return reply_with(http_status(error.code()), error_body(error)); }

HttpReply error_reply(int status, const std::string& message) {
  return reply_with(status, body_with(status, message, ""));
}

Error to_error(std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error(Code::kResourceExhausted, "out of memory for this request");
  } catch (const std::exception& other) {
    LOG(error, "a request failed: {}", other.what());
    return Error(Code::kInternal, "internal error; the server's log says more");
  } catch (...) {
    return Error(Code::kInternal, "internal error");
  }
}

}  // namespace sluice::api
