#include "graph/ops/move.h"

#include <algorithm>
#include <complex>
#include <cstring>
#include <string>
#include <type_traits>

namespace sluice::graph::ops {
namespace {

constexpr int64_t kSerialElements = 16 * 1024;  // fewer are not worth waking another thread
constexpr int64_t kUnitElements = 32 * 1024;    // what one thread takes at a time

// Two inner loops and a list of outer ones.
struct Plan {
  std::vector<MoveAxis> outer;
  MoveAxis rows{1, 0, 0}, columns{1, 1, 1};
  bool is_transpose = false;  // `from` runs along the rows, `to` along the columns
};

// Axes of one element go, and two that are one longer axis on both sides become that one.
void merge_axes(std::vector<MoveAxis>& axes) {
  std::erase_if(axes, [](const MoveAxis& axis) { return axis.count == 1; });
  size_t num = 0;
  for (const MoveAxis& axis : axes) {
    if (num > 0) {
      MoveAxis& last = axes[num - 1];
      if (last.from == axis.from * axis.count && last.to == axis.to * axis.count) {
        last = {last.count * axis.count, axis.from, axis.to};
        continue;
      }
    }
    axes[num++] = axis;
  }
  axes.resize(num);
}

Plan make_plan(std::vector<MoveAxis> axes) {
  Plan plan;
  if (!axes.empty()) {
    plan.columns = axes.back();
    axes.pop_back();
  }
  if (plan.columns.to == 1 && plan.columns.from != 1 && plan.columns.from != 0 && plan.columns.count >= 4) {
    const auto found =
        std::find_if(axes.begin(), axes.end(), [](const MoveAxis& axis) { return axis.from == 1 && axis.count >= 4; });
    if (found != axes.end()) {
      plan.rows = *found;
      axes.erase(found);
      plan.is_transpose = true;
    }
  }
  if (!plan.is_transpose && !axes.empty()) {
    plan.rows = axes.back();
    axes.pop_back();
  }
  plan.outer = std::move(axes);
  return plan;
}

template <typename T>
void copy_rows(const T* from, T* to, const MoveAxis& rows, const MoveAxis& columns) {
  const int64_t n = columns.count;
  for (int64_t r = 0; r < rows.count; ++r, from += rows.from, to += rows.to) {
    if (columns.from == 1 && columns.to == 1) {
      if constexpr (std::is_trivially_copyable_v<T>) std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
      else std::copy_n(from, n, to);
    } else if (columns.from == 0 && columns.to == 1) {
      std::fill_n(to, n, *from);
    } else if (columns.to == 1) {
      for (int64_t c = 0; c < n; ++c) to[c] = from[c * columns.from];
    } else {
      for (int64_t c = 0; c < n; ++c) to[c * columns.to] = from[c * columns.from];
    }
  }
}

// By tiles of one cache line each way: lines of `from` are read whole into a buffer and leave it as lines of `to`.
// Reading straight across would need as many lines at once as a tile has columns, all in one set of the cache if the
// step is a power of two.
template <typename T>
void transpose(const T* from, T* to, const MoveAxis& rows, const MoveAxis& columns) {
  constexpr int64_t kTile = std::max<int64_t>(8, 64 / static_cast<int64_t>(sizeof(T)));
  T buffer[kTile * kTile];
  for (int64_t r = 0; r < rows.count; r += kTile) {
    const int64_t num_rows = std::min(kTile, rows.count - r);
    for (int64_t c = 0; c < columns.count; c += kTile) {
      const int64_t num_columns = std::min(kTile, columns.count - c);
      const T* source = from + r + c * columns.from;
      T* target = to + r * rows.to + c;
      if (num_rows == kTile && num_columns == kTile) {
        for (int64_t j = 0; j < kTile; ++j) std::copy_n(source + j * columns.from, kTile, buffer + j * kTile);
        for (int64_t i = 0; i < kTile; ++i) {
          for (int64_t j = 0; j < kTile; ++j) target[i * rows.to + j] = buffer[j * kTile + i];
        }
      } else {
        for (int64_t i = 0; i < num_rows; ++i) {
          for (int64_t j = 0; j < num_columns; ++j) target[i * rows.to + j] = source[i + j * columns.from];
        }
      }
    }
  }
}

template <typename T>
void move_inner(const T* from, T* to, const MoveAxis& rows, const MoveAxis& columns, bool is_transpose) {
  if constexpr (!std::is_same_v<T, std::string>) {
    if (is_transpose) return transpose(from, to, rows, columns);
  }
  copy_rows(from, to, rows, columns);
}

// One unit is a chunk of rows at one place of the outer axes.
template <typename T>
void move_typed(const T* from, T* to, const Plan& plan, ThreadPool& pool) {
  int64_t outer = 1;
  for (const MoveAxis& axis : plan.outer) outer *= axis.count;
  const int64_t total = outer * plan.rows.count * plan.columns.count;
  const MoveAxis& columns = plan.columns;
  if (plan.outer.empty() && plan.rows.count == 1) {
    const int64_t grain = total <= kSerialElements ? total : kUnitElements;
    pool.parallel_for(total, grain, [&](int64_t begin, int64_t end, int) {
      copy_rows(from + begin * columns.from, to + begin * columns.to, plan.rows,
                {end - begin, columns.from, columns.to});
    });
    return;
  }
  int64_t chunk = plan.rows.count;
  if (total > kSerialElements) {
    chunk = std::clamp<int64_t>(kUnitElements / columns.count / 64 * 64, 1, plan.rows.count);
    if (plan.is_transpose) chunk = std::clamp<int64_t>(chunk, 64, std::max<int64_t>(64, plan.rows.count));
  }
  const int64_t chunks = (plan.rows.count + chunk - 1) / chunk;
  const int64_t per_unit = std::max<int64_t>(1, std::min(chunk, plan.rows.count) * columns.count);
  const int64_t grain = total <= kSerialElements ? outer * chunks : std::max<int64_t>(1, kUnitElements / per_unit);
  pool.parallel_for(outer * chunks, grain, [&](int64_t begin, int64_t end, int) {
    std::vector<int64_t> index(plan.outer.size());
    const T* source = from;
    T* target = to;
    int64_t place = begin / chunks, c = begin % chunks;
    for (size_t i = index.size(); i-- > 0;) {
      const MoveAxis& axis = plan.outer[i];
      index[i] = place % axis.count;
      place /= axis.count;
      source += index[i] * axis.from;
      target += index[i] * axis.to;
    }
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = c * chunk;
      MoveAxis rows = plan.rows;
      rows.count = std::min(chunk, plan.rows.count - first);
      move_inner(source + first * rows.from, target + first * rows.to, rows, columns, plan.is_transpose);
      if (++c < chunks || unit + 1 == end) continue;
      c = 0;
      for (size_t i = index.size(); i-- > 0;) {
        const MoveAxis& axis = plan.outer[i];
        source += axis.from;
        target += axis.to;
        if (++index[i] < axis.count) break;
        source -= axis.from * axis.count;
        target -= axis.to * axis.count;
        index[i] = 0;
      }
    }
  });
}

// Runs of neighbours that are as long as a wider element become one: heads of two channels, pairs of pixels.
int widen(std::vector<MoveAxis>& axes, int bytes, const void* from, const void* to) {
  if (axes.empty() || axes.back().from != 1 || axes.back().to != 1 || axes.back().count > 16) return bytes;
  const int64_t run = axes.back().count, wide = run * bytes;
  if (wide > 16 || (wide & (wide - 1)) != 0) return bytes;
  const auto alignment = static_cast<uintptr_t>(std::min<int64_t>(wide, 8)) - 1;
  if (((reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to)) & alignment) != 0) return bytes;
  for (size_t i = 0; i + 1 < axes.size(); ++i) {
    if (axes[i].from % run != 0 || axes[i].to % run != 0) return bytes;
  }
  axes.pop_back();
  for (MoveAxis& axis : axes) axis = {axis.count, axis.from / run, axis.to / run};
  return static_cast<int>(wide);
}

}  // namespace

void move_elements(ElementType type, const void* from, void* to, std::vector<MoveAxis> axes, ThreadPool& pool) {
  for (const MoveAxis& axis : axes) {
    if (axis.count == 0) return;
  }
  merge_axes(axes);
  if (type == ElementType::kString) {
    return move_typed(static_cast<const std::string*>(from), static_cast<std::string*>(to), make_plan(std::move(axes)),
                      pool);
  }
  const int bytes = widen(axes, get_info(type).bytes, from, to);
  const Plan plan = make_plan(std::move(axes));
  auto move = [&](auto zero) {
    using T = decltype(zero);
    move_typed(static_cast<const T*>(from), static_cast<T*>(to), plan, pool);
  };
  switch (bytes) {
    case 1: return move(uint8_t{});
    case 2: return move(uint16_t{});
    case 4: return move(uint32_t{});
    case 8: return move(uint64_t{});
    default: return move(std::complex<double>{});
  }
}

template <typename T>
void move_places(const Tensor& input, Tensor& output, const std::vector<PlaceAxis>& axes, int64_t inner, const T& value,
                 ThreadPool& pool) {
  if (output.count() == 0) return;
  const T* from = input.data<T>();
  T* to = output.data<T>();
  const PlaceAxis& last = axes.back();
  const auto num = static_cast<int64_t>(last.source.size());
  const int64_t row = num * inner;
  pool.parallel_for(output.count() / row, std::max<int64_t>(1, kUnitElements / row),
                    [&](int64_t begin, int64_t end, int) {
                      int64_t previous = -1;
                      for (int64_t r = begin; r < end; ++r) {
                        int64_t offset = 0, place = r;
                        bool is_constant = false;
                        for (size_t d = axes.size() - 1; d-- > 0;) {
                          const auto count = static_cast<int64_t>(axes[d].source.size());
                          const int64_t source = axes[d].source[static_cast<size_t>(place % count)];
                          place /= count;
                          is_constant |= source < 0;
                          offset += source;
                        }
                        T* target = to + r * row;
                        if (is_constant) {
                          std::fill_n(target, row, value);
                          previous = -1;
                          continue;
                        }
                        if (offset == previous) {  // the row above, once more
                          std::copy_n(target - row, row, target);
                          continue;
                        }
                        previous = offset;
                        auto copy = [&](int64_t first, int64_t stop) {
                          for (int64_t i = first; i < stop; ++i) {
                            const int64_t source = last.source[static_cast<size_t>(i)];
                            if (inner == 1) target[i] = source < 0 ? value : from[offset + source];
                            else if (source < 0) std::fill_n(target + i * inner, inner, value);
                            else std::copy_n(from + offset + source, inner, target + i * inner);
                          }
                        };
                        copy(0, last.run_begin);
                        if (last.run_begin < last.run_end) {
                          const T* source = from + offset + last.source[static_cast<size_t>(last.run_begin)];
                          std::copy_n(source, (last.run_end - last.run_begin) * inner, target + last.run_begin * inner);
                        }
                        copy(last.run_end, num);
                      }
                    });
}

template void move_places<uint8_t>(const Tensor&, Tensor&, const std::vector<PlaceAxis>&, int64_t, const uint8_t&,
                                   ThreadPool&);
template void move_places<uint16_t>(const Tensor&, Tensor&, const std::vector<PlaceAxis>&, int64_t, const uint16_t&,
                                    ThreadPool&);
template void move_places<uint32_t>(const Tensor&, Tensor&, const std::vector<PlaceAxis>&, int64_t, const uint32_t&,
                                    ThreadPool&);
template void move_places<uint64_t>(const Tensor&, Tensor&, const std::vector<PlaceAxis>&, int64_t, const uint64_t&,
                                    ThreadPool&);
template void move_places<std::complex<double>>(const Tensor&, Tensor&, const std::vector<PlaceAxis>&, int64_t,
                                                const std::complex<double>&, ThreadPool&);
template void move_places<std::string>(const Tensor&, Tensor&, const std::vector<PlaceAxis>&, int64_t,
                                       const std::string&, ThreadPool&);

const void* element_at(const Tensor& tensor, int64_t index) {
  return static_cast<const uint8_t*>(tensor.raw()) + index * get_info(tensor.type()).bytes;
}

void* element_at(Tensor& tensor, int64_t index) {
  return static_cast<uint8_t*>(tensor.raw()) + index * get_info(tensor.type()).bytes;
}

void fill_with_zeros(Tensor& tensor) {
  if (tensor.type() == ElementType::kString) {
    std::fill_n(tensor.data<std::string>(), tensor.count(), std::string());
  } else if (tensor.count() > 0) {
    std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.bytes()));
  }
}

void fill_with(Tensor& tensor, const Tensor& value, ThreadPool& pool) {
  move_elements(tensor.type(), value.raw(), tensor.raw(), {{tensor.count(), 0, 1}}, pool);
}

}  // namespace sluice::graph::ops
