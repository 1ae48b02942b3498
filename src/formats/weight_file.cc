// Which of the formats a path is, by what is in it.
#include "formats/weight_file.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.h"

namespace sluice::formats {
namespace {

namespace fs = std::filesystem;

// The first bytes of a file; shorter if the file is.
std::string read_start(const std::string& path, size_t num_bytes) {
  std::string start(num_bytes, '\0');
  std::ifstream in(path, std::ios::binary);
  in.read(start.data(), static_cast<std::streamsize>(num_bytes));
  start.resize(static_cast<size_t>(std::max<std::streamsize>(in.gcount(), 0)));
  return start;
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

// What people put in a model's place by mistake; nullptr when it looks like none of these.
const char* recognise_mistake(std::string_view start) {
  static constexpr struct {
    std::string_view start;
    const char* what;
  } kMistakes[] = {
      {"version https://git-lfs",
       "a Git LFS pointer and not the file itself; run 'git lfs pull' or download the file"},
      {"PK\x03\x04", "a PyTorch (or other zip) archive; convert it to safetensors or GGUF"},
      {"\x80\x02", "a Python pickle; convert it to safetensors or GGUF"},
      {"\x80\x04", "a Python pickle; convert it to safetensors or GGUF"},
      {"tjgg", "a GGML file from before GGUF; convert it to GGUF"},
      {"lmgg", "a GGML file from before GGUF; convert it to GGUF"},
      {"fmgg", "a GGML file from before GGUF; convert it to GGUF"},
      {"<", "a web page or XML; the download failed, try it again"},
  };
  for (const auto& mistake : kMistakes) {
    if (starts_with(start, mistake.start)) return mistake.what;
  }
  return nullptr;
}

// "name-00002-of-00003.gguf" -> "name-00001-of-00003.gguf", so that the parts of one model count once.
std::string first_part(std::string name) {
  size_t at = name.rfind("-of-");
  bool is_part = at != std::string::npos && at >= 6 && name.size() == at + 14 && name[at - 6] == '-' &&
                 name.find_first_not_of("0123456789", at - 5) == at;
  return is_part ? name.replace(at - 5, 5, "00001") : name;
}

std::unique_ptr<WeightFile> open_folder(const std::string& path) {
  std::error_code error;
  std::set<std::string> ggufs;
  bool has_safetensors = false, has_pickle = false;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    std::string name = entry.path().filename().string(), extension = entry.path().extension().string();
    if (extension == ".gguf") ggufs.insert(first_part(name));
    has_safetensors =
        has_safetensors || extension == ".safetensors" || name == "model.safetensors.index.json";
    has_pickle = has_pickle || extension == ".bin" || extension == ".pt" || extension == ".pth";
  }
  if (error) fail(Code::kPermissionDenied, "cannot read the folder {}: {}", path, error.message());
  if (has_safetensors) return open_safetensors(path);
  if (ggufs.size() == 1) return open_gguf((fs::path(path) / *ggufs.begin()).string());
  if (ggufs.size() > 1) {
    std::string list;
    for (const std::string& name : ggufs) list += (list.empty() ? "" : ", ") + name;
    fail(Code::kInvalidArgument, "{}: the folder has {} models; name one of {}", path, ggufs.size(), list);
  }
  if (has_pickle) {
    fail(Code::kInvalidArgument,
         "{}: the folder has only PyTorch pickle weights (.bin, .pt, .pth), which can run code when "
         "read; convert them to safetensors",
         path);
  }
  fail(Code::kNotFound,
       "{}: the folder has no weights (model.safetensors, model.safetensors.index.json or *.gguf)", path);
}

}  // namespace

bool is_gguf(const std::string& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && read_start(path, 4) == "GGUF";
}

std::unique_ptr<WeightFile> open_weights(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) fail(Code::kNotFound, "{}: no such file or folder", path);
  if (fs::is_directory(path, error)) return open_folder(path);
  if (!fs::is_regular_file(path, error)) fail(Code::kInvalidArgument, "{} is not a regular file", path);
  if (is_gguf(path)) return open_gguf(path);
  std::string start = read_start(path, 64);
  bool is_header = start.size() > 8 && start[8] == '{' && start[6] == 0 && start[7] == 0;
  bool is_index = path.find(".index.json") != std::string::npos;
  if (is_header || is_index) return open_safetensors(path);
  if (const char* mistake = recognise_mistake(start)) {
    fail(Code::kInvalidArgument, "{}: this is {}", path, mistake);
  }
  // Named as one of ours: its parser says best what is wrong with it.
  if (fs::path(path).extension() == ".safetensors") return open_safetensors(path);
  if (fs::path(path).extension() == ".gguf") return open_gguf(path);
  fail(Code::kInvalidArgument, "{}: this is neither a GGUF nor a safetensors file", path);
}

}  // namespace sluice::formats
