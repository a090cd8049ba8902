// Normally distributed noise that is the same on every machine.
#pragma once

#include <array>
#include <cstdint>

namespace calotype {

// Number `index` of stream `stream` of `seed`: Philox4x32-10 (Salmon et al. 2011), made normal by
// the inverse of the distribution (AS 241, Wichura 1988) with + - * / and sqrt alone, which IEEE
// 754 rounds the same everywhere.
double normal_noise(uint64_t seed, uint64_t stream, uint64_t index);

// 128 random bits: Philox4x32-10 of (seed, stream, index).
std::array<uint32_t, 4> random_bits(uint64_t seed, uint64_t stream, uint64_t index);

}  // namespace calotype
