// What the two attentions share, with float32 units and with tiles of AMX.
#pragma once

#include <algorithm>
#include <functional>

#include "cpu/attention.h"

namespace calotype::cpu {

// Keys of a chunk: 480 x 16 channels x 4 bytes = 30 KiB, one plane in L1 for the second product.
// Ten times kKeysAtOnce, and no power of two: planes 512 lines of cache apart would share their
// sets.
constexpr int64_t kKeys = 480;
// Keys that meet all queries of a block at a time: 48 x 512 channels x 4 bytes = 96 KiB in L2.
constexpr int64_t kKeysAtOnce = 48;
// Queries of a block, three panels of 32 or six of 16: their queries, scores and sums take 192 KiB
// each at 512 channels, and x is read from L3 twice a block.
constexpr int64_t kQueries = 96;
constexpr int64_t kWidestPanel = 32;
// With tiles of AMX, of many channels and of up to 256: what goes with them stays in an L2 of 2 MB.
constexpr int64_t kAmxQueries = 192, kAmxQueriesOfFew = 256;

struct AttentionShape {
  explicit AttentionShape(Extent x)
      : tokens(x.h * x.w),
        channels(x.c),
        blocks(divide_up(x.c, kBlock)),
        padded(blocks * kBlock),
        chunks(divide_up(tokens, kKeys)),
        // An odd number of cache lines, for the same reason.
        plane(std::min(kKeys, tokens) * kBlock + kBlock) {}
  int64_t tokens, channels, blocks, padded, chunks, plane;

  int64_t x_floats() const { return chunks * blocks * plane; }
  // Two results, two left and two right factors; two biases.
  int64_t projection_floats() const { return 6 * padded * padded + 2 * padded; }
  // queries, sums of x, scores; maximum and sum of each query
  int64_t slot_floats() const {
    return kQueries * (2 * padded + std::min(kKeys, tokens)) + 2 * kQueries;
  }
  int64_t amx_queries() const { return padded <= 256 ? kAmxQueriesOfFew : kAmxQueries; }
};

// Both folded projections as A: element (out, in) at [in / 16][out][in % 16]; biases.
struct AttentionProjections {
  const float *query, *query_bias, *out, *out_bias;
};

struct AttentionBlock {
  int64_t picture, first, queries;
};

// Called between the chunks of keys; false: give up. A block of a large picture takes too long to
// wait for before cancelling.
using Proceed = std::function<bool()>;

// With tiles of AMX.
int64_t amx_attention_floats(const AttentionShape& shape);  // of a thread's scratch
void amx_attention_block(const Simd& simd, const AttentionCall& call, const AttentionShape& shape,
                         const AttentionProjections& weights, const AttentionBlock& block,
                         const float* x, const Proceed& proceed, float* scratch);

}  // namespace calotype::cpu
