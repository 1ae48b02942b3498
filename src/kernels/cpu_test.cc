#include "kernels/cpu.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace sluice::kernels {
namespace {

namespace fs = std::filesystem;

// A folder as /sys/devices/system/cpu, gone at the end of the test.
class CpuFolder {
 public:
  CpuFolder() {
    std::string pattern = (fs::temp_directory_path() / "sluice-cpu-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~CpuFolder() { fs::remove_all(path_); }

  void add(int cpu, int index, const std::string& level, const std::string& type, const std::string& size,
           const std::string& shared_by) {
    const fs::path caches = fs::path(path_) / ("cpu" + std::to_string(cpu)) / "cache";
    const fs::path cache = caches / ("index" + std::to_string(index));
    fs::create_directories(cache);
    write(cache / "level", level);
    write(cache / "type", type);
    write(cache / "size", size);
    if (!shared_by.empty()) write(cache / "shared_cpu_list", shared_by);
  }
  // The usual four of one core.
  void add_core(int cpu, const std::string& l3_size, const std::string& l3_shared_by) {
    add(cpu, 0, "1", "Data", "48K", std::to_string(cpu));
    add(cpu, 1, "1", "Instruction", "64K", std::to_string(cpu));
    add(cpu, 2, "2", "Unified", "1024K", std::to_string(cpu));
    add(cpu, 3, "3", "Unified", l3_size, l3_shared_by);
  }
  const std::string& path() const { return path_; }

 private:
  static void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text << '\n'; }
  std::string path_;
};

TEST(CacheSizes, OneLastCacheForAll) {
  CpuFolder folder;
  for (int cpu : {0, 1}) folder.add_core(cpu, "32768K", "0-1");
  const CacheSizes sizes = read_cache_sizes(folder.path(), {0, 1});
  EXPECT_EQ(sizes.l1d_bytes, 48 << 10);
  EXPECT_EQ(sizes.l2_bytes, 1 << 20);
  EXPECT_EQ(sizes.l3_bytes, 32 << 20);
}

TEST(CacheSizes, InstructionCachesDoNotCount) {
  CpuFolder folder;
  folder.add(0, 0, "1", "Instruction", "64K", "0");
  folder.add(0, 1, "1", "Data", "32K", "0");
  EXPECT_EQ(read_cache_sizes(folder.path(), {0}).l1d_bytes, 32 << 10);
}

TEST(CacheSizes, LastCachesOfTheAllowedCoresAddUp) {
  CpuFolder folder;
  for (int cpu : {0, 1, 8, 9}) folder.add_core(cpu, "16M", "0-1,8-9");
  for (int cpu : {2, 3}) folder.add_core(cpu, "16M", "2,3");
  for (int cpu : {4, 5}) folder.add_core(cpu, "96M", "4-5");
  EXPECT_EQ(read_cache_sizes(folder.path(), {0, 1, 2, 3, 8, 9}).l3_bytes, 32 << 20);
  EXPECT_EQ(read_cache_sizes(folder.path(), {9, 4}).l3_bytes, 112 << 20);
  EXPECT_EQ(read_cache_sizes(folder.path(), {3}).l3_bytes, 16 << 20);
}

TEST(CacheSizes, WhoSharesIsNotTold) {
  CpuFolder folder;
  for (int cpu : {0, 1, 2}) folder.add_core(cpu, "8M", "");
  EXPECT_EQ(read_cache_sizes(folder.path(), {0, 1, 2}).l3_bytes, 8 << 20);
}

TEST(CacheSizes, NothingThereOrNotUnderstoodIsZero) {
  CpuFolder folder;
  EXPECT_EQ(read_cache_sizes(folder.path(), {0}).l3_bytes, 0);
  EXPECT_EQ(read_cache_sizes(folder.path() + "/none", {0}).l1d_bytes, 0);
  EXPECT_EQ(read_cache_sizes(folder.path(), {}).l3_bytes, 0);
  for (const char* size : {"", "K", "-5K", "12Q", "99999999999999999999K", "9999999G", "12 K"}) {
    folder.add_core(0, size, "0");
    EXPECT_EQ(read_cache_sizes(folder.path(), {0}).l3_bytes, 0) << size;
  }
  folder.add_core(0, "4096", "0");
  EXPECT_EQ(read_cache_sizes(folder.path(), {0}).l3_bytes, 4096);
  folder.add_core(0, "4M", "x-,");  // whatever the list says, it ends
  EXPECT_EQ(read_cache_sizes(folder.path(), {0, 1}).l3_bytes, 4 << 20);
}

TEST(Cpu, SaysWhereItRuns) {
  const Cpu& cpu = get_cpu();
  EXPECT_FALSE(cpu.model_name.empty());
  EXPECT_GE(cpu.num_threads, 1);
  EXPECT_GE(cpu.l3_bytes, 0);
  EXPECT_LE(cpu.l1d_bytes, 1 << 20);
}

}  // namespace
}  // namespace sluice::kernels
