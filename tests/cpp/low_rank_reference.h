#pragma once
// Low-rank factors in float64, with dense matrices (vectors of rows) and by Gram-Schmidt.
#include <cmath>
#include <vector>

namespace quoit::test {

using Matrix = std::vector<std::vector<double>>;

inline Matrix transposed(const Matrix& a) {
  Matrix out(a[0].size(), std::vector<double>(a.size()));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t k = 0; k < a[0].size(); ++k) out[k][i] = a[i][k];
  return out;
}

inline Matrix product(const Matrix& a, const Matrix& b) {
  Matrix out(a.size(), std::vector<double>(b[0].size()));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t k = 0; k < b.size(); ++k)
      for (std::size_t j = 0; j < b[0].size(); ++j) out[i][j] += a[i][k] * b[k][j];
  return out;
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// The rows of the result are orthonormal, and span what those of `rows` do.
inline Matrix orthonormal(Matrix rows) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (int twice = 0; twice < 2; ++twice)
      for (std::size_t j = 0; j < i; ++j) {
        const double by = dot(rows[i], rows[j]);
        for (std::size_t k = 0; k < rows[i].size(); ++k) rows[i][k] -= by * rows[j][k];
      }
    const double length = std::sqrt(dot(rows[i], rows[i]));
    for (double& x : rows[i]) x /= length;
  }
  return rows;
}

inline Matrix columns_of(const std::vector<float>& factor, std::size_t columns) {
  const std::size_t length = factor.size() / columns;
  Matrix out;
  for (std::size_t c = 0; c < columns; ++c) {
    const auto begin = factor.begin() + static_cast<std::ptrdiff_t>(c * length);
    out.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(length));
  }
  return out;
}

}  // namespace quoit::test
