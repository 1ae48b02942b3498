// Recurrent layers: RNN, GRU and LSTM over a sequence, forward, backward or both, whatever their weights came from.
//
// The products with the input are computed for many steps at once, those with the state step by step. Sequences of a
// batch may end early: a sequence keeps its state from then on, its outputs are zeros, and backward it begins at its
// own last step. No state outside the arguments.
#pragma once

#include <string>
#include <vector>

#include "graph/op.h"

namespace sluice::graph::ops {

enum class Cell : uint8_t { kRnn, kGru, kLstm };
int num_gates(Cell cell);        // 1, 3, 4
int num_activations(Cell cell);  // of one direction: 1, 2, 3

struct Activation {
  enum class Kind : uint8_t {
    kRelu, kTanh, kSigmoid, kAffine, kLeakyRelu, kThresholdedRelu, kScaledTanh, kHardSigmoid, kElu, kSoftsign, kSoftplus
  };
  Kind kind = Kind::kTanh;
  float alpha = 0, beta = 0;
};

// Input numbers of a node; -1: it has none of the kind.
struct RecurrentInputs {
  int x = 0, w = 1, r = 2, bias = 3, lengths = 4, initial_h = 5, initial_c = -1, peepholes = -1;
};

// What the attributes say, and the sizes.
struct RecurrentPlan {
  Cell cell = Cell::kRnn;
  RecurrentInputs at;
  int64_t steps = 0, batch = 0, input_size = 0, hidden_size = 0;
  int num_directions = 1;
  bool is_reverse = false;       // the only direction is backward
  bool is_batch_first = false;   // layout 1
  std::vector<Activation> activations;  // num_activations() a direction
  float clip = 0;                // 0: none
  bool resets_after_product = false;  // linear_before_reset of a GRU
  bool couples_forget = false;        // input_forget of an LSTM
  bool rounds_state = false;          // the state goes into its product as if it had been quantised to 8 bits
};

// Shapes of the outputs. REQUIRES: the layer's weights of a direction have the recurrent size `hidden`.
void infer_recurrent_outputs(InferContext& context, Cell cell, const Dim& hidden);
// Reads attributes and input 0; fails on anything that is not allowed.
RecurrentPlan make_recurrent_plan(const RunContext& context, Cell cell, const RecurrentInputs& at, int64_t hidden_size);

// x is as the node's input; w is [directions, gates * hidden, input], r [directions, gates * hidden, hidden]. The other
// inputs are the node's. Writes the outputs that the node has.
void run_recurrent(RunContext& context, const RecurrentPlan& plan, const float* x, const float* w, const float* r);
void run_recurrent(RunContext& context, const RecurrentPlan& plan, const double* x, const double* w, const double* r);

// Rounds values to 256 even steps between the smallest and the largest of them and 0, as DynamicQuantizeLinear does.
void round_to_8_bits(const float* from, float* to, int64_t count);

}  // namespace sluice::graph::ops
