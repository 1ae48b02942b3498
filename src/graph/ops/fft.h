// Discrete Fourier transforms of any length in O(n log n), in double precision.
//
// Lengths whose prime factors are small are split by them (Cooley and Tukey, 1965, mixed radix); others become a
// convolution with a chirp, computed with transforms of a power of two (Bluestein, 1970). A plan is made once a length
// and is read-only afterwards: any thread may transform with it, each with its own scratch memory.
#pragma once

#include <complex>
#include <cstdint>
#include <memory>
#include <vector>

namespace sluice::graph::ops {

class FourierPlan {
 public:
  using Complex = std::complex<double>;

  // REQUIRES: length > 0.
  explicit FourierPlan(int64_t length);

  int64_t length() const { return length_; }
  int64_t scratch_size() const { return scratch_size_; }
  // to[k] = sum over j of from[j] * exp(-2 pi i j k / length), unscaled. All are [length], scratch [scratch_size()];
  // none overlap.
  void transform(const Complex* from, Complex* to, Complex* scratch) const;
  // The same with +2 pi, divided by length. Overwrites `from`.
  void invert(Complex* from, Complex* to, Complex* scratch) const;

 private:
  void transform_part(const Complex* from, Complex* to, int64_t stride, size_t factor, int64_t length) const;
  void combine(Complex* to, int64_t stride, int radix, int64_t part) const;
  void convolve_with_chirp(const Complex* from, Complex* to, Complex* scratch) const;

  int64_t length_, scratch_size_ = 0;
  std::vector<int> factors_;
  std::vector<Complex> roots_;             // exp(-2 pi i k / length)
  std::unique_ptr<FourierPlan> inner_;     // of Bluestein's convolution; null: mixed radix
  std::vector<Complex> chirp_;             // exp(-pi i k^2 / length)
  std::vector<Complex> chirp_spectrum_;
};

}  // namespace sluice::graph::ops
