// For tests: an HTTP client over a raw socket, so that tests can send what no client library would.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

namespace sluice::api {

struct TestReply {
  int status = 0;       // 0: the connection was closed without one
  std::string head;     // status line and headers, CRLF
  std::string body;     // chunks joined
  bool has(std::string_view text) const { return head.find(text) != std::string::npos; }
};

class TestClient {
 public:
  explicit TestClient(int port) {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    timeval timeout{20, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) close();
  }
  ~TestClient() { close(); }
  TestClient(TestClient&& other) noexcept : fd_(std::exchange(other.fd_, -1)), buffer_(std::move(other.buffer_)) {}
  TestClient& operator=(TestClient&&) = delete;

  bool is_connected() const { return fd_ >= 0; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  // False when the server closed the connection.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  void post(const std::string& path, const std::string& body, const std::string& headers = "") {
    send("POST " + path + " HTTP/1.1\r\nHost: test\r\n" + headers + "Content-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body);
  }
  void get(const std::string& path, const std::string& headers = "", const std::string& method = "GET") {
    send(method + " " + path + " HTTP/1.1\r\nHost: test\r\n" + headers + "\r\n");
  }

  // Until the buffer has `text`; false at the end of the stream.
  bool read_until(std::string_view text) {
    while (buffer_.find(text) == std::string::npos) {
      if (!read_some()) return false;
    }
    return true;
  }
  bool is_closed_by_server() {
    while (read_some()) {
    }
    return true;
  }

  TestReply read_reply(bool is_head = false) {
    TestReply reply;
    if (!read_until("\r\n\r\n")) return reply;
    size_t end = buffer_.find("\r\n\r\n") + 4;
    reply.head = buffer_.substr(0, end);
    buffer_.erase(0, end);
    reply.status = std::atoi(reply.head.c_str() + 9);
    if (is_head || reply.status == 204) return reply;
    size_t length_at = reply.head.find("Content-Length: ");
    if (length_at != std::string::npos) {
      size_t length = std::strtoul(reply.head.c_str() + length_at + 16, nullptr, 10);
      while (buffer_.size() < length && read_some()) {
      }
      reply.body = buffer_.substr(0, length);
      buffer_.erase(0, reply.body.size());
    } else if (reply.has("Transfer-Encoding: chunked")) {
      for (;;) {
        if (!read_until("\r\n")) break;
        size_t line = buffer_.find("\r\n");
        size_t size = std::strtoul(buffer_.c_str(), nullptr, 16);
        buffer_.erase(0, line + 2);
        while (buffer_.size() < size + 2 && read_some()) {
        }
        reply.body += buffer_.substr(0, size);
        buffer_.erase(0, size + 2);
        if (size == 0) break;
      }
    } else {
      while (read_some()) {
      }
      reply.body = std::exchange(buffer_, "");
    }
    return reply;
  }

 private:
  bool read_some() {
    char bytes[4096];
    ssize_t count = ::recv(fd_, bytes, sizeof bytes, 0);
    if (count <= 0) return false;
    buffer_.append(bytes, static_cast<size_t>(count));
    return true;
  }

  int fd_ = -1;
  std::string buffer_;
};

}  // namespace sluice::api
