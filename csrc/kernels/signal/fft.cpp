#include "kernels/signal/fft.h"

#include <algorithm>
#include <numbers>
#include <utility>

namespace graphopt::signal {

namespace {

Fft::Complex unit(double turns) { return std::polar(1.0, -2.0 * std::numbers::pi * turns); }

// Without the checks for infinities that std::complex multiplies with.
inline Fft::Complex product(Fft::Complex a, Fft::Complex b) {
  return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

}  // namespace

Fft::Fft(int64_t length) : length_(length), padded_(1) {
  while (padded_ < length) padded_ *= 2;
  const bool direct = padded_ == length;
  if (!direct) {
    while (padded_ < 2 * length - 1) padded_ *= 2;
  }
  for (int64_t k = 0; k < padded_ / 2; ++k)
    roots_.push_back(unit(static_cast<double>(k) / static_cast<double>(padded_)));
  if (direct) return;
  filter_.resize(static_cast<size_t>(padded_));
  for (int64_t k = 0; k < length; ++k) {
    // k^2 modulo 2 * length keeps the angle small, and exact (lengths are below 2^31).
    const int64_t square = k * k % (2 * length);
    chirp_.push_back(unit(static_cast<double>(square) / static_cast<double>(2 * length)));
    filter_[static_cast<size_t>(k)] = std::conj(chirp_.back());
    if (k > 0) filter_[static_cast<size_t>(padded_ - k)] = std::conj(chirp_.back());
  }
  radix_2(filter_.data());
}

void Fft::radix_2(Complex* values) const {
  for (int64_t i = 1, j = 0; i < padded_; ++i) {  // bit-reversed order
    int64_t bit = padded_ >> 1;
    for (; (j & bit) != 0; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) std::swap(values[i], values[j]);
  }
  for (int64_t half = 1; half < padded_; half *= 2) {
    const int64_t step = padded_ / (2 * half);
    for (int64_t base = 0; base < padded_; base += 2 * half) {
      for (int64_t k = 0; k < half; ++k) {
        const Complex odd = product(values[base + half + k], roots_[static_cast<size_t>(k * step)]);
        const Complex even = values[base + k];
        values[base + k] = even + odd;
        values[base + half + k] = even - odd;
      }
    }
  }
}

void Fft::transform(Complex* values, Complex* scratch, bool inverse) const {
  // The inverse is the conjugate of the transform of the conjugate.
  if (inverse) std::transform(values, values + length_, values, [](Complex v) { return std::conj(v); });
  if (padded_ == length_) {
    radix_2(values);
  } else {
    std::fill_n(scratch, padded_, Complex{});
    for (int64_t k = 0; k < length_; ++k) scratch[k] = product(values[k], chirp_[static_cast<size_t>(k)]);
    radix_2(scratch);
    // The inverse of the product, again by conjugation.
    for (int64_t k = 0; k < padded_; ++k) {
      scratch[k] = std::conj(product(scratch[k], filter_[static_cast<size_t>(k)]));
    }
    radix_2(scratch);
    const double scale = 1.0 / static_cast<double>(padded_);
    for (int64_t k = 0; k < length_; ++k) {
      values[k] = product(std::conj(scratch[k]) * scale, chirp_[static_cast<size_t>(k)]);
    }
  }
  if (inverse) std::transform(values, values + length_, values, [](Complex v) { return std::conj(v); });
}

}  // namespace graphopt::signal
