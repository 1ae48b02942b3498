#include "graph/plan_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "base/float16.h"
#include "base/json.h"
#include "base/mmap.h"
#include "graph/export_onnx.h"
#include "graph/import_onnx.h"
#include "sluice/version.h"

namespace sluice::graph {
namespace {

constexpr char kMagic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'P', 'L'};
constexpr int64_t kAlignment = 64;
constexpr const char* kAsIs = "constants";   // location of a constant's elements as they are
constexpr const char* kHalves = "halves";    // ... of floats that are stored as half floats
constexpr int64_t kMaxManifest = int64_t{1} << 30;

struct Header {
  char magic[8];
  uint32_t format;
  uint32_t reserved;
  uint64_t manifest_offset, manifest_bytes, manifest_hash;
  uint64_t file_bytes;
  uint64_t reserved2;
  uint64_t header_hash;  // of the bytes before
};
static_assert(sizeof(Header) == 64);

// To find damage, not malice: four independent lanes of multiply and rotate, so that it runs as fast as memory.
uint64_t hash_of(std::span<const uint8_t> bytes) {
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15u;
  uint64_t lanes[4] = {1, 2, 3, 4};
  auto mix = [](uint64_t state, uint64_t word) {
    state = (state ^ word) * kFactor;
    return (state << 29) | (state >> 35);
  };
  size_t at = 0;
  for (; at + 32 <= bytes.size(); at += 32) {
    uint64_t words[4];
    std::memcpy(words, bytes.data() + at, 32);
    for (int l = 0; l < 4; ++l) lanes[l] = mix(lanes[l], words[l]);
  }
  for (; at < bytes.size(); ++at) lanes[0] = mix(lanes[0], bytes[at]);
  uint64_t hash = bytes.size();
  for (const uint64_t lane : lanes) hash = mix(hash, lane);
  return hash;
}

std::string to_hex(uint64_t value) { return fmt::format("{:016x}", value); }

// Writes sections one after the other into a file beside `path`, which becomes `path` in the end.
class PlanWriter {
 public:
  explicit PlanWriter(const std::string& path)
      : path_(path), temporary_(fmt::format("{}.{}.tmp", path, ::getpid())) {
    file_ = std::fopen(temporary_.c_str(), "wb");
    if (file_ == nullptr) fail(Code::kInvalidArgument, "cannot write {}: {}", path, std::strerror(errno));
    const Header empty{};
    write(&empty, sizeof empty);
  }
  ~PlanWriter() {
    if (file_ != nullptr) {
      std::fclose(file_);
      std::remove(temporary_.c_str());
    }
  }
  PlanWriter(const PlanWriter&) = delete;
  PlanWriter& operator=(const PlanWriter&) = delete;

  int64_t align() {
    static constexpr char kZeros[kAlignment] = {};
    const int64_t fill = (kAlignment - at_ % kAlignment) % kAlignment;
    write(kZeros, static_cast<size_t>(fill));
    return at_;
  }
  void write(const void* data, size_t bytes) {
    if (bytes > 0 && std::fwrite(data, 1, bytes, file_) != bytes) fail_writing();
    at_ += static_cast<int64_t>(bytes);
  }
  int64_t at() const { return at_; }
  // Of what has been written to [begin, end).
  uint64_t hash_written(int64_t begin, int64_t end) {
    if (std::fflush(file_) != 0) fail_writing();
    const MappedFile written(temporary_);
    return hash_of(written.bytes().subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
  }

  void finish(const std::string& manifest) {
    Header header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.format = kPlanFormat;
    header.manifest_offset = static_cast<uint64_t>(align());
    header.manifest_bytes = manifest.size();
    header.manifest_hash = hash_of({reinterpret_cast<const uint8_t*>(manifest.data()), manifest.size()});
    write(manifest.data(), manifest.size());
    header.file_bytes = static_cast<uint64_t>(at_);
    header.header_hash = hash_of({reinterpret_cast<const uint8_t*>(&header), offsetof(Header, header_hash)});
    const bool is_written = std::fseek(file_, 0, SEEK_SET) == 0 &&
                            std::fwrite(&header, sizeof header, 1, file_) == 1 && std::fflush(file_) == 0 &&
                            ::fsync(::fileno(file_)) == 0;
    if (!is_written) fail_writing();
    std::FILE* file = std::exchange(file_, nullptr);
    const bool is_whole = std::fclose(file) == 0 && std::rename(temporary_.c_str(), path_.c_str()) == 0;
    if (is_whole) return;
    const int error = errno;
    std::remove(temporary_.c_str());
    fail(Code::kUnavailable, "cannot write {}: {}", path_, std::strerror(error));
  }

 private:
  [[noreturn]] void fail_writing() {
    fail(Code::kUnavailable, "cannot write {}: {}", path_, std::strerror(errno));
  }

  const std::string path_, temporary_;
  std::FILE* file_ = nullptr;
  int64_t at_ = 0;
};

// Elements of tensors, each memory stored once. Offsets are within the section.
class ConstantStore {
 public:
  ConstantStore(PlanWriter& writer, const std::set<const void*>& halves)
      : writer_(writer), halves_(halves), begin_(writer.align()) {}

  ExternalPlace put(std::span<const uint8_t> bytes) {
    // With the content, since elements of narrow types come in memory that is used again.
    const auto [found, is_new] = places_.try_emplace({bytes.data(), hash_of(bytes)});
    ExternalPlace& place = found->second;
    by_memory_[bytes.data()] = &place;
    if (!is_new) return place;
    place.offset = writer_.align() - begin_;
    if (!halves_.contains(bytes.data())) {
      place.location = kAsIs;
      writer_.write(bytes.data(), bytes.size());
      return place;
    }
    place.location = kHalves;
    std::vector<uint16_t> narrow(bytes.size() / sizeof(float));
    for (size_t i = 0; i < narrow.size(); ++i) {
      float value = 0;
      std::memcpy(&value, bytes.data() + i * sizeof(float), sizeof value);
      narrow[i] = float_to_f16(value);
    }
    writer_.write(narrow.data(), narrow.size() * sizeof(uint16_t));
    return place;
  }
  std::optional<ExternalPlace> find(const void* data) const {
    const auto found = by_memory_.find(data);
    return found == by_memory_.end() ? std::nullopt : std::optional(*found->second);
  }
  int64_t begin() const { return begin_; }

 private:
  PlanWriter& writer_;
  const std::set<const void*>& halves_;
  const int64_t begin_;
  std::map<std::pair<const void*, uint64_t>, ExternalPlace> places_;
  std::map<const void*, const ExternalPlace*> by_memory_;
};

template <typename Body>
void for_each_constant(Graph& graph, Body&& body) {
  for (GraphValue& value : graph.values) {
    if (value.constant && value.constant->kind == Value::Kind::kTensor) body(value.constant->tensor);
  }
  for (Node& node : graph.nodes) {
    for (auto& [name, attribute] : node.attributes) {
      for (auto& inner : attribute.graphs) for_each_constant(*inner, body);
    }
  }
}

bool is_large_float(const Tensor& tensor) {
  return tensor.type() == ElementType::kF32 && tensor.bytes() > kMinExternalBytes;
}

// The floats of a model that are half floats in truth.
std::set<const void*> find_halves(const Model& model) {
  std::set<const void*> halves;
  for_each_constant(const_cast<Graph&>(model.graph), [&](Tensor& tensor) {
    if (!is_large_float(tensor)) return;
    for (const float value : tensor.values<float>()) {
      const float back = f16_to_float(float_to_f16(value));
      if (std::memcmp(&back, &value, sizeof value) != 0) return;
    }
    halves.insert(tensor.raw());
  });
  return halves;
}

json::array to_json(const Shape& shape) { return json::array(shape.begin(), shape.end()); }

json::object section(int64_t offset, int64_t bytes, uint64_t hash) {
  return {{"offset", offset}, {"bytes", bytes}, {"hash", to_hex(hash)}};
}

std::string hex_of(const std::string& bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[static_cast<uint8_t>(c) >> 4];
    text += kDigits[static_cast<uint8_t>(c) & 15];
  }
  return text;
}

std::string bytes_of_hex(std::string_view text) {
  auto digit = [](char c) { return c >= 'a' ? c - 'a' + 10 : c - '0'; };
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(digit(text[i]) * 16 + digit(text[i + 1]));
  }
  return bytes;
}

// A plan file that has been opened: the header and the manifest are whole.
class PlanReader {
 public:
  explicit PlanReader(const std::string& path) : path_(path), file_(std::make_shared<MappedFile>(path)) {
    const std::span<const uint8_t> bytes = file_->bytes();
    Header header{};
    if (bytes.size() >= sizeof kMagic) std::memcpy(&header, bytes.data(), std::min(bytes.size(), sizeof header));
    if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) fail_plan("is no plan of sluice");
    if (bytes.size() < sizeof header ||
        header.header_hash != hash_of({bytes.data(), offsetof(Header, header_hash)})) {
      fail_plan("is damaged (its header): build it anew with `sluice optimize`");
    }
    if (header.format != kPlanFormat) {
      fail(Code::kFailedPrecondition,
           "{} has format {} and this sluice reads format {}: build it anew with `sluice optimize`", path,
           header.format, kPlanFormat);
    }
    const bool fits = header.file_bytes == bytes.size() && header.manifest_offset <= bytes.size() &&
                      header.manifest_bytes <= bytes.size() - header.manifest_offset &&
                      header.manifest_bytes <= kMaxManifest;
    if (!fits) fail_plan("is cut off: build it anew with `sluice optimize`");
    const std::span<const uint8_t> manifest = bytes.subspan(header.manifest_offset, header.manifest_bytes);
    if (hash_of(manifest) != header.manifest_hash) fail_plan("is damaged (its manifest): build it anew");
    manifest_ = json::parse({reinterpret_cast<const char*>(manifest.data()), manifest.size()}).as_object();
  }

  const json::object& manifest() const { return manifest_; }
  const std::shared_ptr<MappedFile>& file() const { return file_; }

  // Throws Error if it is not as it was written.
  std::span<const uint8_t> section(const char* name) const {
    const json::object& where = manifest_.at("sections").as_object().at(name).as_object();
    const std::span<const uint8_t> bytes = part(where.at("offset").to_number<int64_t>(),
                                                where.at("bytes").to_number<int64_t>());
    if (to_hex(hash_of(bytes)) != where.at("hash").as_string()) {
      // Of what rebuilding needs itself there is no other copy.
      const bool is_source = name == std::string_view("source") || name == std::string_view("constants");
      fail_plan(fmt::format("is damaged (section {}): {}", name,
                            is_source ? "build it anew with `sluice optimize`" : rebuild_advice()));
    }
    return bytes;
  }

  PlanInfo info() const {
    PlanInfo info;
    info.sluice_version = manifest_.at("sluice").as_string();
    info.isa = manifest_.at("isa").as_string();
    info.source = manifest_.at("source_name").as_string();
    info.num_threads = manifest_.at("threads").to_number<int>();
    if (info.num_threads < 1 || info.num_threads > 1024) {
      fail_plan(fmt::format("is for {} threads, which cannot be: build it anew", info.num_threads));
    }
    info.precision = parse_precision(std::string(manifest_.at("precision").as_string()));
    info.stores_halves = manifest_.at("stores_halves").as_bool();
    for (const json::value& pass : manifest_.at("disabled_passes").as_array()) {
      info.disabled_passes.emplace_back(pass.as_string());
    }
    return info;
  }

  std::vector<Profile> profiles() const {
    std::vector<Profile> profiles;
    for (const json::value& entry : manifest_.at("profiles").as_array()) {
      Profile& profile = profiles.emplace_back();
      for (const auto& [name, shapes] : entry.as_object()) {
        profile.min[name] = shape_of(shapes.as_object().at("min"));
        profile.opt[name] = shape_of(shapes.as_object().at("opt"));
        profile.max[name] = shape_of(shapes.as_object().at("max"));
        const int rank = profile.min[name].rank();
        if (profile.opt[name].rank() != rank || profile.max[name].rank() != rank) fail_plan("is damaged (profiles)");
      }
    }
    return profiles;
  }

  Model model(const char* name, std::span<const uint8_t> constants) const {
    auto file = file_;
    const auto read = [constants, file](const std::string& location, int64_t offset, int64_t bytes) -> ExternalBytes {
      const bool is_half = location == kHalves;
      const int64_t stored = is_half ? bytes / 2 : bytes;
      if ((!is_half && location != kAsIs) || offset < 0 || stored < 0 ||
          offset > static_cast<int64_t>(constants.size()) || stored > static_cast<int64_t>(constants.size()) - offset) {
        fail(Code::kInvalidArgument, "a constant lies outside of the plan");
      }
      const uint8_t* data = constants.data() + offset;
      if (!is_half) return {data, static_cast<size_t>(bytes), file};
      auto wide = std::make_shared<std::vector<float>>(static_cast<size_t>(stored / 2));
      for (size_t i = 0; i < wide->size(); ++i) {
        uint16_t half = 0;
        std::memcpy(&half, data + 2 * i, sizeof half);
        (*wide)[i] = f16_to_float(half);
      }
      return {reinterpret_cast<const uint8_t*>(wide->data()), wide->size() * sizeof(float), wide};
    };
    return import_onnx(section(name), path_ + " (" + name + ")", read);
  }

  // Puts the packed weights where get() finds them.
  void load_packed(std::span<const uint8_t> constants, PackedWeights& weights) const {
    for (const json::value& value : manifest_.at("packed").as_array()) {
      const json::object& entry = value.as_object();
      const int64_t from = entry.at("constant").to_number<int64_t>(), at = entry.at("offset").to_number<int64_t>();
      const auto type = static_cast<ElementType>(entry.at("type").to_number<uint8_t>());
      const Shape shape = shape_of(entry.at("dims"));
      const auto size = static_cast<int64_t>(constants.size());
      const bool is_known = type == ElementType::kU8 || type == ElementType::kBF16 || type == ElementType::kF32;
      int64_t bytes = is_known ? get_info(type).bytes : -1;
      for (const int64_t dim : shape) {
        if (__builtin_mul_overflow(bytes, dim, &bytes)) bytes = -1;
      }
      if (from < 0 || from >= size || at < 0 || at > size || bytes < 0 || bytes > size - at || at % kAlignment != 0) {
        fail_plan("is damaged (packed weights): " + rebuild_advice());
      }
      // Only its address and its description count.
      const auto constant_type = entry.at("constant_type").to_number<uint8_t>();
      if (constant_type == 0 || constant_type >= kNumElementTypes) fail_plan("is damaged: " + rebuild_advice());
      const Tensor constant = Tensor::wrap(static_cast<ElementType>(constant_type), shape_of(entry.at("constant_dims")),
                                           constants.data() + from, file_);
      weights.put(constant, bytes_of_hex(entry.at("order").as_string()),
                  Tensor::wrap(type, shape, constants.data() + at, file_));
    }
  }

  std::string rebuild_advice() const { return "rebuild it with `sluice optimize --rebuild " + path_ + "`"; }
  [[noreturn]] void fail_plan(const std::string& problem) const {
    fail(Code::kInvalidArgument, "{} {}", path_, problem);
  }

 private:
  std::span<const uint8_t> part(int64_t offset, int64_t bytes) const {
    const auto size = static_cast<int64_t>(file_->bytes().size());
    if (offset < 0 || bytes < 0 || offset > size || bytes > size - offset) fail_plan("is damaged (its sections)");
    return file_->bytes().subspan(static_cast<size_t>(offset), static_cast<size_t>(bytes));
  }
  static Shape shape_of(const json::value& dims) {
    Shape shape;
    for (const json::value& dim : dims.as_array()) {
      const auto d = dim.to_number<int64_t>();
      if (d < 0 || d > (int64_t{1} << 40)) fail(Code::kInvalidArgument, "a shape of the plan has the dimension {}", d);
      shape.push_back(d);
    }
    return shape;
  }

  const std::string path_;
  const std::shared_ptr<MappedFile> file_;
  json::object manifest_;
};

// What the manifest lacks, or has of another kind, is Boost's to say; people get our words.
template <typename Body>
auto with_plan(const std::string& path, Body&& body) {
  try {
    PlanReader reader(path);
    return body(reader);
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception&) {
    fail(Code::kInvalidArgument, "{} is damaged (its manifest lacks something): build it anew with `sluice optimize`",
         path);
  }
}

}  // namespace

void round_to_halves(Model& model) {
  std::map<const void*, Tensor> rounded;  // one memory may be several constants
  for_each_constant(model.graph, [&](Tensor& tensor) {
    if (!is_large_float(tensor)) return;
    const auto [found, is_new] = rounded.try_emplace(tensor.raw());
    if (is_new) {
      bool fits = true;
      for (const float value : tensor.values<float>()) fits &= !(std::fabs(value) > 65504.0f);
      if (!fits) {
        found->second = tensor;
      } else {
        found->second = Tensor(ElementType::kF32, tensor.shape());
        float* to = found->second.data<float>();
        for (const float value : tensor.values<float>()) *to++ = f16_to_float(float_to_f16(value));
      }
    }
    tensor = found->second.reshaped(tensor.shape());
  });
}

void write_plan(const std::string& path, const Shared& shared, const Model& source, const PlanInfo& info) {
  PlanWriter writer(path);
  std::set<const void*> halves;
  if (info.stores_halves) {
    halves = find_halves(*shared.model);
    halves.merge(find_halves(source));
  }
  ConstantStore constants(writer, halves);
  const ExternalSink sink = [&](std::span<const uint8_t> bytes) { return constants.put(bytes); };
  const std::string model = export_onnx(*shared.model, sink), original = export_onnx(source, sink);
  json::array packed;
  // Halves are widened into memory of their own, of which nobody knows the address beforehand.
  std::vector<PackedWeights::Entry> entries = info.stores_halves ? std::vector<PackedWeights::Entry>()
                                                                 : shared.weights.list();
  // What is packed may have been made of something that is an entry itself.
  for (bool has_more = true; has_more;) {
    has_more = false;
    std::vector<PackedWeights::Entry> left;
    for (PackedWeights::Entry& entry : entries) {
      const std::optional<ExternalPlace> from = constants.find(entry.constant.raw());
      if (!from) {
        left.push_back(std::move(entry));
        continue;
      }
      const ExternalPlace place = constants.put(
          {static_cast<const uint8_t*>(entry.packed.raw()), static_cast<size_t>(entry.packed.bytes())});
      packed.push_back(json::object{{"constant", from->offset},
                                    {"constant_type", static_cast<int>(entry.constant.type())},
                                    {"constant_dims", to_json(entry.constant.shape())},
                                    {"order", hex_of(entry.order)},
                                    {"type", static_cast<int>(entry.packed.type())},
                                    {"dims", to_json(entry.packed.shape())},
                                    {"offset", place.offset}});
      has_more = true;
    }
    entries = std::move(left);
  }
  const int64_t constants_end = writer.at();
  json::object sections;
  auto add = [&](const char* name, const std::string& text) {
    const int64_t at = writer.align();
    writer.write(text.data(), text.size());
    sections[name] = section(at, static_cast<int64_t>(text.size()),
                             hash_of({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  };
  add("model", model);
  add("source", original);
  add("timings", shared.timings.to_text());
  sections["constants"] = section(constants.begin(), constants_end - constants.begin(),
                                  writer.hash_written(constants.begin(), constants_end));

  json::array profiles;
  for (const Profile& profile : shared.profiles) {
    json::object entry;
    for (const auto& [name, shape] : profile.opt) {
      entry[name] = json::object{{"min", to_json(profile.min.at(name))}, {"opt", to_json(shape)},
                                 {"max", to_json(profile.max.at(name))}};
    }
    profiles.push_back(std::move(entry));
  }
  json::array disabled(info.disabled_passes.begin(), info.disabled_passes.end());
  const json::object manifest{{"sluice", info.sluice_version},
                              {"isa", info.isa},
                              {"source_name", info.source},
                              {"threads", info.num_threads},
                              {"precision", name(info.precision)},
                              {"stores_halves", info.stores_halves},
                              {"disabled_passes", std::move(disabled)},
                              {"profiles", std::move(profiles)},
                              {"sections", std::move(sections)},
                              {"packed", std::move(packed)}};
  writer.finish(json::serialize(manifest));
}

Plan load_plan(const std::string& path) {
  return with_plan(path, [&](const PlanReader& reader) {
    Plan plan;
    plan.info = reader.info();
    if (plan.info.sluice_version != SLUICE_VERSION || plan.info.isa != kernel_isa()) {
      fail(Code::kFailedPrecondition,
           "{} was built by sluice {} for {} and this is sluice {} on {}: rebuild it with "
           "`sluice optimize --rebuild {}`",
           path, plan.info.sluice_version, plan.info.isa, SLUICE_VERSION, kernel_isa(), path);
    }
    plan.shared = std::make_shared<Shared>();
    const std::span<const uint8_t> constants = reader.section("constants");
    plan.shared->model = std::make_shared<Model>(reader.model("model", constants));
    reader.load_packed(constants, plan.shared->weights);
    const std::span<const uint8_t> timings = reader.section("timings");
    plan.shared->timings.add_text({reinterpret_cast<const char*>(timings.data()), timings.size()}, path);
    plan.shared->profiles = reader.profiles();
    return plan;
  });
}

PlanSource load_plan_source(const std::string& path) {
  return with_plan(path, [&](const PlanReader& reader) {
    return PlanSource{reader.info(), reader.profiles(), reader.model("source", reader.section("constants"))};
  });
}

bool is_plan(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return false;
  char magic[sizeof kMagic] = {};
  const bool is_one = std::fread(magic, sizeof magic, 1, file) == 1 && std::memcmp(magic, kMagic, sizeof magic) == 0;
  std::fclose(file);
  return is_one;
}

}  // namespace sluice::graph
