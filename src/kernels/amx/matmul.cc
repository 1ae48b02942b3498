// Products by tiles: packed weights of every quantised type, BF16 and F8, rounded to bf16 like the activations, with
// sums in f32. F32 and F16 weights are more exact than bf16 and stay with avx512/.
//
// Work goes by panels: 256 inputs of two strips, expanded to tiles of bf16 (weights.h) that stay in the first-level
// cache while all rows are multiplied by them, two tiles of rows at a time: four products for four tiles loaded. Tiles
// of sums wait in a buffer between panels; with at most two tiles of rows they stay in registers and strips are walked
// to their end. While one panel is multiplied, the next is expanded and a later one fetched, a tile at a time: the tile
// unit and the vector units work side by side, and no tile is loaded that has only just been stored.
//
// Invariant (batch invariance): a row of a tile has no part in the others, and sums of a (row, output) are those of one
// tile product for every 32 inputs, in their order, whatever the number of rows: a single row goes the same way.
#include "kernels/amx/fills.h"
#include "kernels/amx/tile.h"
#include "kernels/amx/weights.h"
#include "kernels/kernels.h"

namespace sluice::kernels::amx {
namespace {

constexpr int kPanelTiles = kPanelInputs / kTileInputs;
constexpr int64_t kMaxRowTiles = 34;  // an expanded weight serves 528 rows; their 256 inputs are 264 KB
constexpr int64_t kMaxStrips = 8;     // whose sums for all rows are as much again: both stay in the second-level cache
constexpr int64_t kPanelsAhead = 3;   // that weights are fetched before they are expanded

constexpr int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows of activations by the tiles that they lie in; the first may begin in the middle of one.
struct RowTiles {
  const uint8_t* tiles;  // row 0 of the first tile
  int64_t tile_bytes;    // from a tile of rows to the next
  int64_t first, count;  // rows: `count` of them from row `first` of the first tile on

  int64_t num_tiles() const { return (first + count + kTileRows - 1) / kTileRows; }
  int64_t begin(int64_t t) const { return t == 0 ? first : 0; }
  int64_t num_rows(int64_t t) const { return at_most(kTileRows, first + count - t * kTileRows) - begin(t); }
  const uint8_t* find(int64_t t, int64_t chunk) const {
    return tiles + t * tile_bytes + chunk * kTileBytes + begin(t) * kTileRowBytes;
  }
};

// 256 inputs (fewer at the end of a row) of one strip or two.
struct Panel {
  int64_t first_strip, num_strips;  // among those multiplied together
  int64_t begin, num_inputs, num_chunks;
};

template <typename Stage>
struct Scratch {
  Stage stages[2];
  alignas(64) uint8_t panels[2][2][kPanelTiles][kTileBytes];  // [in turn][strip][chunk of 32 inputs]
  alignas(64) float sums[kMaxRowTiles][kMaxStrips][kTileRows * kStripRows];
};

// What is done for later panels between the products of one: expanding the next, fetching another.
template <typename Stage>
struct Ahead {
  const Stage* stages;
  uint8_t (*panel)[kPanelTiles][kTileBytes];
  int64_t num_strips, num_tiles, next_tile;
  int64_t num_steps, budget;  // the tiles are spread evenly over so many steps
  const uint8_t* fetch[2];    // weights of the later panel; null: there is none
  int64_t fetch_bytes;        // for each tile

  void expand_one() {
    const int64_t second = num_strips - 1, strip = next_tile & second, chunk = next_tile >> second;
    if (const uint8_t* from = fetch[strip]; from != nullptr) {
      from += chunk * fetch_bytes;
      for (int64_t i = 0; i < fetch_bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T0);
    }
    stages[strip].expand(chunk, panel[strip][chunk]);
    ++next_tile;
  }
  inline void step() {
    for (budget += num_tiles; budget >= num_steps; budget -= num_steps) expand_one();
  }
};

// Tiles 0 to 3 are sums, of the first row tile and strip, the first and the second, ...; 4 and 5 are activations, 6 and
// 7 weights.
class Registers {
 public:
  // Keeps contents if the shape is the same.
  void shape(int64_t rows, int64_t more_rows) {
    if (rows == rows_ && more_rows == more_rows_) return;
    rows_ = rows;
    more_rows_ = more_rows;
    TileConfig config;
    const int64_t tile_rows[8] = {rows, rows, more_rows, more_rows, rows, more_rows, kTileRows, kTileRows};
    for (int i = 0; i < 8; ++i) {
      config.rows[i] = static_cast<uint8_t>(tile_rows[i]);
      config.row_bytes[i] = tile_rows[i] == 0 ? 0 : kTileRowBytes;
    }
    tile_configure(config);
  }

 private:
  int64_t rows_ = 0, more_rows_ = 0;
};

template <typename Stage>
class Group {
 public:
  // Rows times up to kMaxStrips strips from output `output` on.
  Group(const MatmulArgs& args, const RowTiles& rows, int64_t output, int64_t num_strips, Scratch<Stage>& scratch,
        Registers& registers)
      : args_(args), rows_(rows), output_(output), num_strips_(num_strips), scratch_(scratch), registers_(registers),
        num_pairs_((num_strips + 1) / 2), num_stretches_((args.num_inputs + kPanelInputs - 1) / kPanelInputs),
        keeps_sums_(rows.num_tiles() <= 2) {}

  void multiply() {
    const int64_t num_panels = num_pairs_ * num_stretches_;
    Panel now = get_panel(0);
    load(now);
    Ahead<Stage> ahead = start_ahead(0, 1);
    ahead.step();
    for (int64_t p = 0; p < num_panels; ++p) {
      ahead = {};
      ahead.num_steps = 1;
      const int64_t num_steps = (rows_.num_tiles() + 1) / 2 * now.num_chunks;
      Panel next = now;
      if (p + 1 < num_panels) {
        next = get_panel(p + 1);
        load(next);
        ahead = start_ahead(p + 1, num_steps);
      }
      for (int64_t t = 0; t < rows_.num_tiles(); t += 2) multiply_rows(now, p, t, ahead);
      now = next;
    }
    for (int64_t t = 0; t < rows_.num_tiles(); ++t) {
      for (int64_t strip = 0; strip < num_strips_; ++strip) write_output(t, strip);
    }
  }

 private:
  // The order of panels: strips to their end where sums stay in registers, else all strips of a stretch of inputs, so
  // that activations are read from the second-level cache.
  Panel get_panel(int64_t index) const {
    const int64_t pair = keeps_sums_ ? index / num_stretches_ : index % num_pairs_;
    const int64_t stretch = keeps_sums_ ? index % num_stretches_ : index / num_pairs_;
    Panel panel;
    panel.first_strip = pair * 2;
    panel.num_strips = at_most(2, num_strips_ - pair * 2);
    panel.begin = stretch * kPanelInputs;
    panel.num_inputs = at_most(kPanelInputs, args_.num_inputs - panel.begin);
    panel.num_chunks = (panel.num_inputs + kTileInputs - 1) / kTileInputs;
    return panel;
  }

  const uint8_t* find_strip(int64_t strip) const {
    return static_cast<const uint8_t*>(args_.weights) +
           (output_ / kStripRows + strip) * packed_strip_bytes(Stage::kType, args_.num_inputs);
  }

  void load(const Panel& panel) {
    for (int64_t s = 0; s < panel.num_strips; ++s) {
      scratch_.stages[s].load(args_, find_strip(panel.first_strip + s), panel.begin, panel.num_inputs);
    }
  }

  // For a panel that is loaded.
  Ahead<Stage> start_ahead(int64_t index, int64_t num_steps) {
    const Panel panel = get_panel(index);
    Ahead<Stage> ahead = {};
    ahead.stages = scratch_.stages;
    ahead.panel = scratch_.panels[index % 2];
    ahead.num_strips = panel.num_strips;
    ahead.num_tiles = panel.num_strips * panel.num_chunks;
    ahead.num_steps = num_steps;
    if (index + kPanelsAhead < num_pairs_ * num_stretches_) {
      const Panel later = get_panel(index + kPanelsAhead);
      const int64_t half_bytes = packed_half_bytes(Stage::kType, args_.num_inputs);
      const int64_t word_bytes = packed_strip_bytes(Stage::kType, args_.num_inputs) - half_bytes;
      ahead.fetch_bytes = (word_bytes * kTileInputs / args_.num_inputs + 63) / 64 * 64;
      for (int64_t s = 0; s < at_most(panel.num_strips, later.num_strips); ++s) {
        ahead.fetch[s] = find_strip(later.first_strip + s) + half_bytes + word_bytes * later.begin / args_.num_inputs;
      }
    }
    return ahead;
  }

  // Row tiles t and t + 1 times the panel.
  void multiply_rows(const Panel& panel, int64_t index, int64_t t, Ahead<Stage>& ahead) {
    const bool has_more_rows = t + 1 < rows_.num_tiles(), has_two_strips = panel.num_strips == 2;
    const bool is_first = panel.begin == 0, is_last = panel.begin + panel.num_inputs == args_.num_inputs;
    registers_.shape(rows_.num_rows(t), has_more_rows ? rows_.num_rows(t + 1) : 0);
    float(*sums)[kTileRows * kStripRows] = scratch_.sums[t] + panel.first_strip;
    float(*more_sums)[kTileRows * kStripRows] = has_more_rows ? scratch_.sums[t + 1] + panel.first_strip : sums;
    if (is_first) {
      tile_zero<0>();
      tile_zero<1>();
      if (has_more_rows) {
        tile_zero<2>();
        tile_zero<3>();
      }
    } else if (!keeps_sums_) {
      tile_load<0>(sums[0], kTileRowBytes);
      if (has_two_strips) tile_load<1>(sums[1], kTileRowBytes);
      if (has_more_rows) tile_load<2>(more_sums[0], kTileRowBytes);
      if (has_more_rows && has_two_strips) tile_load<3>(more_sums[1], kTileRowBytes);
    }
    const uint8_t(*weights)[kPanelTiles][kTileBytes] = scratch_.panels[index % 2];
    const uint8_t* x = rows_.find(t, panel.begin / kTileInputs);
    const uint8_t* more_x = has_more_rows ? rows_.find(t + 1, panel.begin / kTileInputs) : x;
    for (int64_t chunk = 0; chunk < panel.num_chunks; ++chunk) {
      tile_load<6>(weights[0][chunk], kTileRowBytes);
      if (has_two_strips) tile_load<7>(weights[1][chunk], kTileRowBytes);
      tile_load<4>(x + chunk * kTileBytes, kTileRowBytes);
      tile_dot_bf16<0, 4, 6>();
      if (has_two_strips) tile_dot_bf16<1, 4, 7>();
      if (has_more_rows) {
        tile_load<5>(more_x + chunk * kTileBytes, kTileRowBytes);
        tile_dot_bf16<2, 5, 6>();
        if (has_two_strips) tile_dot_bf16<3, 5, 7>();
      }
      ahead.step();
    }
    if (is_last || !keeps_sums_) {
      tile_store<0>(sums[0], kTileRowBytes);
      if (has_two_strips) tile_store<1>(sums[1], kTileRowBytes);
      if (has_more_rows) tile_store<2>(more_sums[0], kTileRowBytes);
      if (has_more_rows && has_two_strips) tile_store<3>(more_sums[1], kTileRowBytes);
    }
  }

  void write_output(int64_t t, int64_t strip) {
    const int64_t output = output_ + strip * kStripRows;
    const __mmask16 valid = avx512::first_lanes(args_.output_end - output);
    const float* sums = scratch_.sums[t][strip];
    float* y = args_.output + (t * kTileRows + rows_.begin(t) - rows_.first) * args_.output_stride + output;
    for (int64_t r = 0; r < rows_.num_rows(t); ++r, sums += kStripRows, y += args_.output_stride) {
      _mm512_mask_storeu_ps(y, valid, _mm512_load_ps(sums));
    }
  }

  const MatmulArgs& args_;  // rows are counted from those of rows_
  const RowTiles& rows_;
  const int64_t output_, num_strips_;
  Scratch<Stage>& scratch_;
  Registers& registers_;
  const int64_t num_pairs_, num_stretches_;
  const bool keeps_sums_;
};

template <typename Stage>
void multiply(const MatmulArgs& args) {
  Scratch<Stage> scratch;
  Registers registers;
  const auto* x = static_cast<const uint8_t*>(args.activations);
  const int64_t place = static_cast<int64_t>(reinterpret_cast<uintptr_t>(x) % kTileBytes);
  RowTiles rows = {x - place, kTileRows * args.activation_row_bytes, place / kTileRowBytes, 0};
  MatmulArgs part = args;
  for (int64_t left = args.num_rows; left > 0;) {
    rows.count = at_most(left, kMaxRowTiles * kTileRows - rows.first);
    for (int64_t output = args.output_begin; output < args.output_end; output += kMaxStrips * kStripRows) {
      const int64_t num_strips = at_most(kMaxStrips, (args.output_end - output + kStripRows - 1) / kStripRows);
      Group<Stage>(part, rows, output, num_strips, scratch, registers).multiply();
    }
    part.output += rows.count * args.output_stride;
    left -= rows.count;
    rows.tiles += kMaxRowTiles * rows.tile_bytes;
    rows.first = 0;
  }
  if (args.num_rows > 0) tile_release();
}

void convert_to_tiles(const float* x, void* row, int64_t n) {
  auto* to = static_cast<uint8_t*>(row);
  for (int64_t i = 0; i < n; i += kTileInputs, to += kTileBytes) {
    const int64_t left = n - i;
    const __m512 a = _mm512_maskz_loadu_ps(avx512::first_lanes(left), x + i);
    const __mmask16 has_b = left > 16 ? avx512::first_lanes(left - 16) : static_cast<__mmask16>(0);
    const __m512 b = _mm512_maskz_loadu_ps(has_b, x + i + 16);
    const __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_upper(a), 16));
    const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_upper(b), 16));
    avx512::store_512(to, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
  }
}

template <typename Stage>
void set(Kernels& table) {
  const int type = static_cast<int>(Stage::kType);
  table.few_rows_matmul[type] = table.packed_matmul[type];  // of avx512/: expanding to bf16 costs more than it saves
  table.packed_matmul[type] = {ActivationFormat::kBF16Tiles, multiply<Stage>};
}

}  // namespace
}  // namespace sluice::kernels::amx

namespace sluice::kernels {

void amx::fill_matmul(Kernels& table) {
  table.quantize_activations[static_cast<int>(ActivationFormat::kBF16Tiles)] = convert_to_tiles;
  set<BF16>(table);
  set<F8>(table);
  set<Quantised<BlockQ4_0>>(table);
  set<Quantised<BlockQ4_1>>(table);
  set<Quantised<BlockQ5_0>>(table);
  set<Quantised<BlockQ5_1>>(table);
  set<Quantised<BlockQ8_0>>(table);
  set<Quantised<BlockQ2_K>>(table);
  set<Quantised<BlockQ3_K>>(table);
  set<Quantised<BlockQ4_K>>(table);
  set<Quantised<BlockQ5_K>>(table);
  set<Quantised<BlockQ6_K>>(table);
  set<Quantised<BlockIQ4_NL>>(table);
  set<Quantised<BlockIQ4_XS>>(table);
}

}  // namespace sluice::kernels
