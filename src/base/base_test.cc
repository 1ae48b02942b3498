#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>

#include "base/bounded_queue.h"
#include "base/check.h"
#include "base/env.h"
#include "base/error.h"
#include "base/float16.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mmap.h"
#include "base/random.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "base/trace.h"

namespace sluice {
namespace {

TEST(Float16, RoundTripsEveryHalf) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    float value = f16_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(float_to_f16(value), bits);
    float brain = bf16_to_float(static_cast<uint16_t>(bits));
    if (!std::isnan(brain)) {
      EXPECT_EQ(float_to_bf16(brain), bits);
    }
  }
  EXPECT_EQ(float_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f8_e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(f8_e4m3_to_float(0x01), 0.001953125f);
  EXPECT_TRUE(std::isnan(f8_e4m3_to_float(0xff)));
}

TEST(Random, PhiloxKnownAnswers) {
  // Known answers of Random123's kat_vectors for philox4x32-10.
  EXPECT_EQ(philox(0, 0, 0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull), (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(ThreadPool, ParallelForVisitsEachIndexOnce) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    for (int repeat = 0; repeat < 200; ++repeat) {
      std::vector<std::atomic<int>> hits(257);
      pool.parallel_for(257, 10, [&](int64_t begin, int64_t end, int worker) {
        EXPECT_LT(worker, threads);
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (auto& hit : hits) ASSERT_EQ(hit.load(), 1);
    }
  }
}

TEST(ThreadPool, RunReachesEveryWorker) {
  for (int threads : {1, 2, 3, num_available_cores() + 3}) {
    ThreadPool pool(threads);
    for (int repeat = 0; repeat < 100; ++repeat) {
      std::vector<int> calls(static_cast<size_t>(threads), 0);  // each worker writes its own, the owner reads all
      pool.run([&](int worker) { ++calls[static_cast<size_t>(worker)]; });
      EXPECT_EQ(calls, std::vector<int>(static_cast<size_t>(threads), 1));
      // Now and then long enough for the workers to park.
      if (repeat % 25 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(4));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(4));  // the pool ends with its workers parked
  }
}

// The owner does not go on, nor the job's memory away, while a worker that came is still at it.
TEST(ThreadPool, ParallelForWaitsForWhoCame) {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::atomic<int> num_inside{0};
    int64_t sums[3] = {};
    pool.parallel_for(64, 1, [&](int64_t begin, int64_t end, int worker) {
      ++num_inside;
      if (worker != 0 && repeat % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      for (int64_t i = begin; i < end; ++i) sums[worker] += i;
      --num_inside;
    });
    EXPECT_EQ(num_inside.load(), 0);
    EXPECT_EQ(sums[0] + sums[1] + sums[2], 64 * 63 / 2);
  }
}

TEST(ThreadPool, SeveralPoolsWorkAtOnce) {
  std::atomic<int64_t> total{0};
  std::vector<std::thread> owners;
  for (int owner = 0; owner < 3; ++owner) {
    owners.emplace_back([&] {
      ThreadPool pool(2);
      for (int repeat = 0; repeat < 200; ++repeat) {
        pool.parallel_for(8, 1, [&](int64_t begin, int64_t end, int) { total += end - begin; });
        pool.run([&](int) { ++total; });
      }
    });
  }
  for (std::thread& owner : owners) owner.join();
  EXPECT_EQ(total.load(), 3 * 200 * (8 + 2));
}

TEST(BoundedQueue, RefusesWhenFullAndDrainsWhenClosed) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.push(1));
  EXPECT_TRUE(queue.push(2));
  EXPECT_FALSE(queue.push(3));
  queue.close();
  EXPECT_FALSE(queue.push(4));
  EXPECT_EQ(queue.pop(), 1);
  EXPECT_EQ(queue.pop(), 2);
  EXPECT_EQ(queue.pop(), std::nullopt);
}

// Released pages leave memory and come back with what the file has; parts of other memory are left alone.
TEST(MappedFile, ReleasesWholePages) {
  const std::string path = testing::TempDir() + "mapped_file_release";
  const std::string content(1 << 20, 'x');
  std::ofstream(path, std::ios::binary) << content;
  MappedFile file(path);
  auto count_resident_kb = [&] {  // of this mapping
    std::ifstream maps("/proc/self/smaps");
    std::string line;
    bool is_ours = false;
    while (std::getline(maps, line)) {
      if (line.find(path) != std::string::npos) is_ours = true;
      if (is_ours && line.starts_with("Rss:")) return std::stoi(line.substr(4));
    }
    return -1;
  };
  uint64_t sum = 0;
  for (uint8_t byte : file.bytes()) sum += byte;
  EXPECT_EQ(count_resident_kb(), 1024);
  file.release(file.bytes().subspan(100, content.size() - 200));  // the first and the last page are not whole
  EXPECT_EQ(count_resident_kb(), 8);
  uint64_t again = 0;
  for (uint8_t byte : file.bytes()) again += byte;
  EXPECT_EQ(again, sum);
  std::vector<uint8_t> other(1 << 16, 7);
  file.release(other);
  EXPECT_EQ(other[5000], 7);
  std::remove(path.c_str());
}

// Opening a pipe waits for a writer, unless it is asked not to.
TEST(MappedFile, RefusesWhatIsNoFile) {
  const std::string path = testing::TempDir() + "mapped_file_pipe";
  std::remove(path.c_str());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  for (const std::string& each : {path, testing::TempDir(), std::string("/dev/null")}) {
    try {
      MappedFile file(each);
      FAIL() << each;
    } catch (const Error& error) {
      EXPECT_NE(error.message().find(each + " is not a regular file"), std::string::npos) << error.message();
    }
  }
  std::remove(path.c_str());
}

TEST(Json, WritesWhatItReads) {
  const char* text = R"({"a":[1,-2,0.5,1e300,true,null,"\u0001\"é😀"],"b":{}})";
  EXPECT_EQ(json::serialize(json::parse(text)), R"({"a":[1,-2,0.5,1e+300,true,null,"\u0001\"é😀"],"b":{}})");
}

TEST(Json, RefusesHostileInput) {
  for (const char* text : {"", "{", "[1,]", "{\"a\":NaN}", "[1] 2", "\"\xff\"", "\"\\ud800\"", "01", "[Infinity]",
                           "[1e999]", "{\"a\":[0e999]}"}) {
    EXPECT_THROW(json::parse(text), Error) << text;
  }
  EXPECT_THROW(json::parse(std::string(100000, '[')), Error);
}

TEST(Json, ReadersNameTheField) {
  json::object o = json::parse(R"({"n":3,"x":"s","big":1e300,"f":2.5,"one":1.0})").as_object();
  EXPECT_EQ(json::read_int(o, "n"), 3);
  EXPECT_EQ(json::read_int(o, "one"), 1);
  EXPECT_EQ(json::read_int(o, "missing"), std::nullopt);
  for (auto read : {+[](const json::object& v) { (void)json::read_int(v, "x"); },
                    +[](const json::object& v) { (void)json::read_int(v, "f"); },
                    +[](const json::object& v) { (void)json::read_int(v, "n", 4, 9); },
                    +[](const json::object& v) { (void)json::read_double(v, "big", -1e200, 1e200); },
                    +[](const json::object& v) { (void)json::read_bool(v, "n"); }}) {
    try {
      read(o);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kInvalidArgument);
      EXPECT_NE(error.message().find(error.param()), std::string::npos);
    }
  }
}

TEST(Tensor, CountsWithoutOverflow) {
  EXPECT_EQ(count_elements({2, 3}), 6);
  EXPECT_EQ(count_elements({int64_t{1} << 40, int64_t{1} << 40}), std::nullopt);
  EXPECT_EQ(row_bytes(DType::kQ4_K, 512), 288);
  EXPECT_EQ(find_dtype("q6_k"), DType::kQ6_K);
}

TEST(Env, RefusesUnknownNames) {
  setenv("SLUICE_ISO", "avx2", 1);
  try {
    env::check_environment();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(error.message().find("SLUICE_ISO"), std::string::npos);
    EXPECT_NE(error.message().find("SLUICE_ISA"), std::string::npos);
  }
  unsetenv("SLUICE_ISO");
  EXPECT_NO_THROW(env::check_environment());
}

TEST(Mmap, ErrorsNameThePath) {
  for (const char* path : {"/nonexistent/file", "/"}) {
    try {
      MappedFile file(path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_NE(error.message().find(path), std::string::npos);
    }
  }
  std::string path = std::filesystem::temp_directory_path() / "sluice_base_test.txt";
  std::ofstream(path) << "hello";
  EXPECT_EQ(read_file(path), "hello");
  EXPECT_THROW(read_file(path, 4), Error);
  std::filesystem::remove(path);
}

TEST(Trace, KeepsTheNewestAndSaves) {
  EXPECT_TRUE(trace::last_events(4).empty());
  trace::enable();
  for (int i = 0; i < 3; ++i) TRACE("test.span");
  EXPECT_EQ(trace::last_events(2).size(), 2u);
  std::string path = std::filesystem::temp_directory_path() / "sluice_base_test.json";
  trace::save(path);
  json::value saved = json::parse(read_file(path));
  EXPECT_EQ(saved.as_object().at("traceEvents").as_array().size(), 3u);
  EXPECT_THROW(trace::save("/nonexistent/trace.json"), Error);
  std::filesystem::remove(path);
}

TEST(Log, LevelsParse) {
  EXPECT_EQ(log::parse_level("warning"), log::Level::kWarning);
  EXPECT_THROW(log::parse_level("loud"), Error);
}

TEST(CheckDeathTest, PrintsConditionAndValues) {
  int pages = 3;
  EXPECT_DEATH(CHECK(pages == 4, pages, "of", 4), "CHECK\\(pages == 4\\) failed.*3 of 4");
}

}  // namespace
}  // namespace sluice
