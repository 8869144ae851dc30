// The points at which F(4 x 4, 3 x 3) evaluates polynomials: 0, +-a, +-b and infinity.
//
// a = 2/3, b = 3/2: the relative error of a layer is half of what the usual 0, +-1, +-2 give (9e-7
// beside 3e-7 for a direct sum at 128 channels), opposite points halve the work of the transforms, and
// a b = 1 makes two of their factors 1.
// A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016; on the choice of
// points B. Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution for Deep
// Neural Networks, ACM TOMS 46 (2020).
#pragma once

#include <cstdint>

namespace graphopt {

inline constexpr double kWinogradA = 2.0 / 3.0;
inline constexpr double kWinogradB = 3.0 / 2.0;
inline constexpr int64_t kWinogradOut = 4;      // outputs of a tile along an axis
inline constexpr int64_t kWinogradIn = 6;       // inputs of a tile along an axis
inline constexpr int64_t kWinogradPoints = 36;  // products of a tile, each a matrix product over channels

}  // namespace graphopt
