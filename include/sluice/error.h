// The one exception type of sluice, and the codes it carries.
//
// An Error means that the world failed: a bad file, a bad request, no memory at load. Bugs of ours are CHECKs
// (base/check.h) and expected answers (queue full, cancelled) are return values. The codes and their numbers are
// gRPC's, so every protocol has one table from Code to its own status. The message says what failed, which
// thing it was, and what to do about it, in one line; it is shown to users as it is.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace sluice {

enum class Code {
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

class Error : public std::exception {
 public:
  // `param` names the request field or file key at fault, empty when there is none.
  Error(Code code, std::string message, std::string param = "")
      : code_(code), message_(std::move(message)), param_(std::move(param)) {}

  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::string& param() const { return param_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  Code code_;
  std::string message_;
  std::string param_;
};

}  // namespace sluice
