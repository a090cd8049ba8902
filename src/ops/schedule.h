// In which order a graph is computed, strip by strip, and what is in memory meanwhile.
//
// GroupNorm needs the statistics of a whole activation before anybody can read it, so the network
// is a sequence of passes over the picture. A pass makes one activation (its target), or only the
// statistics of one, in strips of rows from top to bottom. A shortcut goes with the convolution
// that reads the same rows: these are read once, and go while both results grow. On the way a pass
// makes the rows of those activations again that were not stored, and lets rows go as soon as
// nobody needs them. The steps of a pass are written down before it runs: the planner adds up
// memory over the same steps that the executor follows.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/graph.h"
#include "ops/ops.h"

namespace calotype {

// How an activation is there for its readers.
enum class Means : uint8_t {
  kKeep,       // in memory from its maker to its last reader
  kRecompute,  // made again, strip by strip, by each pass that reads it
  kSpill,      // in the scratch file, written and read strip by strip
};

struct Step {
  enum class Kind : uint8_t {
    kMaterialize,  // memory for rows [first, last) of `activation`
    kAdopt,        // `activation` takes over the memory of activation `other`, whole
    kRead,         // starts to read rows [first, last) from the scratch file
    kAwaitRead,    // until rows before `last` have been read
    kCompute,      // rows [first, last) of what node `node` makes
    kWrite,        // starts to write rows [first, last) to the scratch file
    kAwaitWrite,   // until rows before `last` have been written
    kRelease,      // rows before `last` are no longer needed
  };
  Kind kind;
  int activation = -1;
  int other = -1;
  int node = -1;
  int64_t first = 0, last = 0;
};

struct Pass {
  std::vector<int> nodes;     // of the graph, in order; the last one makes the target
  std::vector<int> stores;    // activations; none where only the target's statistics are wanted
  std::vector<int> collects;  // activations whose statistics this pass leaves
  std::vector<int> dies;      // stored activations that nobody reads after this pass
};

// The passes that compute the graph's output when each activation has the means given. Input and
// output of the graph are the caller's and count as kept.
std::vector<Pass> make_passes(const Graph& graph, const std::vector<Means>& means);

// True where an activation may have the means: what attention reads or makes is never recomputed.
bool may_have(const Graph& graph, Activation a, Means means);

// The steps of a pass with strips of about `strip_rows` rows of its target (at least one band).
std::vector<Step> make_steps(const Graph& graph, const Ops& ops, const std::vector<Means>& means,
                             const Pass& pass, int64_t strip_rows);

}  // namespace calotype
