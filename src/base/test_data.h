// For tests: where the data lies. Small files are in the repository (tests/data, models); larger ones in the folder that
// SLUICE_TEST_DATA names, ../shared/data beside the repository by default. A test that finds none skips visibly:
//
//   auto path = find_test_data("tokenizers/qwen2");
//   if (!path) GTEST_SKIP() << "needs test data tokenizers/qwen2; set SLUICE_TEST_DATA";
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace sluice {

inline std::optional<std::string> find_test_data(const std::string& relative) {
  std::string repository = SLUICE_REPOSITORY;
  const char* chosen = std::getenv("SLUICE_TEST_DATA");
  for (const std::string& root : {repository + "/tests/data", repository + "/models", std::string(chosen ? chosen : ""),
                                  repository + "/../shared/data"}) {
    if (!root.empty() && std::filesystem::exists(root + "/" + relative)) return root + "/" + relative;
  }
  return std::nullopt;
}

}  // namespace sluice
