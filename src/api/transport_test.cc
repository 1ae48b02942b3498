// The same server behind TLS and behind a Unix socket.
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/un.h>

#include <cstdio>
#include <filesystem>

#include "api/server.h"
#include "api/test_client.h"
#include "base/log.h"
#include "serve/fake_model.h"

namespace sluice::api {
namespace {

class TransportTest : public ::testing::Test {
 protected:
  TransportTest() {
    log::configure(log::Level::kError, log::Format::kText);
    folder = std::filesystem::temp_directory_path() / ("sluice_transport_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder);
    repository.add({"fake"}, std::make_shared<serve::FakeModel>());
  }
  ~TransportTest() override { std::filesystem::remove_all(folder); }

  // A self-signed certificate and its key, in one file.
  std::string make_certificate() {
    EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256");
    X509* certificate = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME* name = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"),
                               -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    X509_sign(certificate, key, EVP_sha256());
    std::string path = (folder / "server.pem").string();
    std::FILE* file = std::fopen(path.c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    PEM_write_X509(file, certificate);
    std::fclose(file);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return path;
  }

  std::filesystem::path folder;
  serve::Repository repository;
};

TEST_F(TransportTest, Tls) {
  ServerOptions options;
  options.http.port = 0;
  options.http.ssl_certfile = make_certificate();
  options.http.header_ms_max = 2000;
  Server server(options, repository);
  server.start();
  EXPECT_TRUE(server.url().starts_with("https://"));

  int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(server.port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL* tls = SSL_new(context);
  SSL_set_fd(tls, fd);
  ASSERT_EQ(SSL_connect(tls), 1);
  std::string body = R"({"prompt":"hi","stream":true})";
  std::string request =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  ASSERT_GT(SSL_write(tls, request.data(), static_cast<int>(request.size())), 0);
  std::string reply;
  char bytes[4096];
  while (reply.find("[DONE]") == std::string::npos) {
    int count = SSL_read(tls, bytes, sizeof bytes);
    if (count <= 0) break;
    reply.append(bytes, static_cast<size_t>(count));
  }
  EXPECT_TRUE(reply.starts_with("HTTP/1.1 200 OK"));
  EXPECT_NE(reply.find("[DONE]"), std::string::npos);
  SSL_free(tls);
  SSL_CTX_free(context);
  ::close(fd);

  // Plain HTTP on a TLS port is closed, and the server lives on.
  TestClient plain(server.port());
  plain.get("/health");
  EXPECT_TRUE(plain.is_closed_by_server());
}

TEST_F(TransportTest, UnixSocket) {
  ServerOptions options;
  options.http.uds = (folder / "socket").string();
  {
    Server server(options, repository);
    server.start();
    int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof address.sun_path, "%s", options.http.uds.c_str());
    ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    std::string request = "GET /version HTTP/1.1\r\nConnection: close\r\n\r\n";
    ASSERT_EQ(::send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
    std::string reply;
    char bytes[4096];
    for (ssize_t count; (count = ::recv(fd, bytes, sizeof bytes, 0)) > 0;)
      reply.append(bytes, static_cast<size_t>(count));
    EXPECT_TRUE(reply.starts_with("HTTP/1.1 200 OK"));
    ::close(fd);
    EXPECT_THROW(Server(options, repository).start(), Error);  // somebody listens there
    EXPECT_TRUE(std::filesystem::exists(options.http.uds));
  }
  EXPECT_FALSE(std::filesystem::exists(options.http.uds));
}

}  // namespace
}  // namespace sluice::api
