#include "graph/ops/fft.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace sluice::graph::ops {
namespace {

using Complex = FourierPlan::Complex;
constexpr int kLargestRadix = 13;  // a prime of p costs p^2; beyond this the detour through a convolution is quicker

Complex multiply(Complex a, Complex b) {
  return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

}  // namespace

FourierPlan::FourierPlan(int64_t length) : length_(length) {
  CHECK(length > 0, length);
  int64_t rest = length;
  for (int radix : {4, 2, 3, 5, 7, 11, kLargestRadix}) {
    for (; rest % radix == 0; rest /= radix) factors_.push_back(radix);
  }
  const double step = 2 * std::numbers::pi / static_cast<double>(length);
  if (rest == 1) {
    roots_.resize(static_cast<size_t>(length));
    for (int64_t k = 0; k < length; ++k)
      roots_[static_cast<size_t>(k)] = std::polar(1.0, -step * static_cast<double>(k));
    return;
  }
  int64_t wide = 1;
  while (wide < 2 * length - 1) wide *= 2;
  inner_ = std::make_unique<FourierPlan>(wide);
  scratch_size_ = 2 * wide;
  chirp_.resize(static_cast<size_t>(length));
  std::vector<Complex> conjugate(static_cast<size_t>(wide));
  int64_t square = 0;  // k^2 modulo 2 * length: the angle keeps its precision
  for (int64_t k = 0; k < length; ++k) {
    const Complex c = std::polar(1.0, -step / 2 * static_cast<double>(square));
    chirp_[static_cast<size_t>(k)] = c;
    conjugate[static_cast<size_t>(k)] = conjugate[static_cast<size_t>((wide - k) % wide)] = std::conj(c);
    square = (square + 2 * k + 1) % (2 * length);
  }
  chirp_spectrum_.resize(static_cast<size_t>(wide));
  inner_->transform(conjugate.data(), chirp_spectrum_.data(), nullptr);
}

void FourierPlan::transform(const Complex* from, Complex* to, Complex* scratch) const {
  if (inner_ != nullptr) convolve_with_chirp(from, to, scratch);
  else transform_part(from, to, 1, 0, length_);
}

void FourierPlan::invert(Complex* from, Complex* to, Complex* scratch) const {
  for (int64_t i = 0; i < length_; ++i) from[i] = std::conj(from[i]);
  transform(from, to, scratch);
  const double factor = 1 / static_cast<double>(length_);
  for (int64_t i = 0; i < length_; ++i) to[i] = std::conj(to[i]) * factor;
}

// Of every stride-th element of `from`, `length` of them.
void FourierPlan::transform_part(const Complex* from, Complex* to, int64_t stride, size_t factor,
                                 int64_t length) const {
  if (length == 1) {
    *to = *from;
    return;
  }
  const int radix = factors_[factor];
  const int64_t part = length / radix;
  for (int q = 0; q < radix; ++q) transform_part(from + q * stride, to + q * part, stride * radix, factor + 1, part);
  combine(to, stride, radix, part);
}

// `radix` transforms of `part` elements each, one after another, become one.
void FourierPlan::combine(Complex* to, int64_t stride, int radix, int64_t part) const {
  const Complex* roots = roots_.data();
  if (radix == 2) {
    for (int64_t u = 0; u < part; ++u) {
      const Complex a = to[u], b = multiply(to[u + part], roots[u * stride]);
      to[u] = a + b;
      to[u + part] = a - b;
    }
    return;
  }
  if (radix == 4) {
    for (int64_t u = 0; u < part; ++u) {
      const Complex a = to[u], b = multiply(to[u + part], roots[u * stride]),
                    c = multiply(to[u + 2 * part], roots[2 * u * stride]),
                    d = multiply(to[u + 3 * part], roots[3 * u * stride]);
      const Complex even = a + c, odd = b + d, difference = a - c;
      const Complex turned = {(b - d).imag(), -(b - d).real()};  // times -i
      to[u] = even + odd;
      to[u + part] = difference + turned;
      to[u + 2 * part] = even - odd;
      to[u + 3 * part] = difference - turned;
    }
    return;
  }
  Complex terms[kLargestRadix];
  const int64_t turn = stride * part;  // length_ / radix
  for (int64_t u = 0; u < part; ++u) {
    for (int q = 0; q < radix; ++q) terms[q] = multiply(to[u + q * part], roots[u * q * stride]);
    for (int k = 0; k < radix; ++k) {
      Complex sum = terms[0];
      for (int q = 1; q < radix; ++q) sum += multiply(terms[q], roots[q * k % radix * turn]);
      to[u + k * part] = sum;
    }
  }
}

// j k = (j^2 + k^2 - (k - j)^2) / 2 makes the sum a convolution of from * chirp with the conjugate of the chirp.
void FourierPlan::convolve_with_chirp(const Complex* from, Complex* to, Complex* scratch) const {
  const int64_t wide = inner_->length();
  Complex *a = scratch, *b = scratch + wide;
  for (int64_t i = 0; i < length_; ++i) a[i] = multiply(from[i], chirp_[static_cast<size_t>(i)]);
  std::fill(a + length_, a + wide, Complex());
  inner_->transform(a, b, nullptr);
  for (int64_t i = 0; i < wide; ++i) b[i] = multiply(b[i], chirp_spectrum_[static_cast<size_t>(i)]);
  inner_->invert(b, a, nullptr);
  for (int64_t i = 0; i < length_; ++i) to[i] = multiply(a[i], chirp_[static_cast<size_t>(i)]);
}

}  // namespace sluice::graph::ops
