// From an Error to an HTTP status and OpenAI's error body: the one table. The catch site of all protocol code.
#pragma once

#include <exception>
#include <string>

#include "api/http.h"
#include "base/json.h"
#include "sluice/error.h"

namespace sluice::api {

int http_status(Code code);
// "BadRequestError", "NotFoundError", ...: the `type` of the body.
const char* error_type(int status);

// {"error": {"message", "type", "param", "code"}}. The message is made valid UTF-8.
json::object error_body(const Error& error);
HttpReply error_reply(const Error& error);
// For refusals that have a status of their own, such as 404, 405 and 431.
HttpReply error_reply(int status, const std::string& message);
// What `exception` stands for; anything that is no Error is our fault (500, logged).
Error to_error(std::exception_ptr exception);

}  // namespace sluice::api
