// Discrete Fourier transforms of any length, in double precision.
#pragma once

#include <complex>
#include <cstdint>
#include <vector>

namespace graphopt::signal {

// Lengths that are powers of two use the radix-2 algorithm; others are turned into a convolution of such
// a length (Bluestein, "A linear filtering approach to the computation of discrete Fourier transform", 1970).
class Fft {
 public:
  using Complex = std::complex<double>;

  explicit Fft(int64_t length);

  [[nodiscard]] int64_t length() const { return length_; }
  // Values that transform() needs room for behind the `length` ones of the signal.
  [[nodiscard]] int64_t scratch() const { return padded_ == length_ ? 0 : padded_; }
  // In place: y[k] = sum over n of x[n] e^(-2 pi i k n / length); the inverse is not scaled.
  void transform(Complex* values, Complex* scratch, bool inverse) const;

 private:
  void radix_2(Complex* values) const;

  int64_t length_;
  int64_t padded_;               // the power of two that is computed with
  std::vector<Complex> roots_;   // e^(-2 pi i k / padded), k < padded / 2
  std::vector<Complex> chirp_;   // e^(-pi i k^2 / length)
  std::vector<Complex> filter_;  // transform of the conjugate chirp
};

}  // namespace graphopt::signal
