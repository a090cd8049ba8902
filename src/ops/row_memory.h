// Memory for activations that comes and goes row by row.
//
// Every activation has addresses for all of its rows, and memory only for those that are alive.
// Memory is dealt in chunks that move from rows that died to rows that are made (mremap: the pages
// move, nothing is cleared or copied), so that no packing is needed and nothing is lost to
// fragmentation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/graph.h"

namespace calotype {

// Of x86-64 and arm64.
constexpr int64_t kHugePage = int64_t{2} << 20;

// Chunk bytes for a graph whose largest activation of a picture, or prepared weights, have
// `largest` bytes: about 1/256 of it, 64 KiB to 16 MiB.
int64_t chunk_bytes_for(int64_t largest);

// The chunks that are alive of an activation of `batch` pictures with rows of `row_bytes`, as
// numbers: the same arithmetic plans memory and deals it. Chunk c of a picture holds its bytes [c *
// chunk_bytes, (c + 1) * chunk_bytes).
class RowChunks {
 public:
  RowChunks() = default;
  RowChunks(int64_t batch, int64_t rows, int64_t row_bytes, int64_t chunk_bytes);

  int64_t picture_bytes() const {
    return picture_chunks_ * chunk_bytes_;
  }  // a multiple of the chunk
  int64_t row_bytes() const { return row_bytes_; }
  int64_t batch() const { return batch_; }
  int64_t alive() const { return (last_ - first_) * batch_; }  // chunks
  // Chunks [first, last) of each picture that rows [first_row, last_row) add to what is alive (they
  // follow it), or that are free once rows before `row` are.
  std::pair<int64_t, int64_t> materialize(int64_t last_row);
  std::pair<int64_t, int64_t> release(int64_t row);

 private:
  int64_t batch_ = 0, rows_ = 0, row_bytes_ = 0, chunk_bytes_ = 1, picture_chunks_ = 0;
  int64_t first_ = 0, last_ = 0;  // alive
};

// A range of addresses; which parts have memory is RowMemory's business.
class AddressRange {
 public:
  AddressRange() = default;
  // Huge pages where they fit into `chunk_bytes`, what is used at a time. Throws
  // Error(kOutOfMemory).
  AddressRange(int64_t bytes, int64_t chunk_bytes);
  ~AddressRange();
  AddressRange(AddressRange&& other) noexcept;
  AddressRange& operator=(AddressRange&& other) noexcept;

  std::byte* data() const { return data_; }

 private:
  std::byte* base_ = nullptr;
  std::byte* data_ = nullptr;  // aligned to 2 MiB, for huge pages
  size_t bytes_ = 0;
};

// Moves the pages of `bytes` at `from`, and leaves addresses without memory; false on an old
// kernel, which cannot.
bool move_pages(std::byte* from, int64_t bytes, std::byte* to);

// Memory of nobody, all of `range` up to `bytes`, dealt in chunks of `chunk_bytes` until now.
struct KeptPages {
  AddressRange range;
  int64_t bytes = 0, chunk_bytes = 0;
};

class RowMemory {
 public:
  // Deals what `kept` has first, where its pages are of the size that these chunks ask for.
  explicit RowMemory(int64_t chunk_bytes, KeptPages kept = {});

  // Gives memory to a chunk that has none: a spare one's, or new.
  void deal(std::byte* chunk);
  // Takes it back.
  void take_back(std::byte* chunk) {
    spares_.push_back(chunk);
    alive_--;
  }
  // Of all chunks that have memory, spare ones too.
  int64_t held_bytes() const {
    return (alive_ + static_cast<int64_t>(spares_.size())) * chunk_bytes_;
  }
  // Returns spare chunks to the system until no more than `bytes` are held, or none is spare.
  void trim(int64_t bytes);
  // Up to `most` bytes of spare chunks, which the system may take back while it is short of memory;
  // none is spare afterwards.
  KeptPages keep(int64_t most);

 private:
  int64_t chunk_bytes_;
  int64_t alive_ = 0;
  std::vector<std::byte*> spares_;
  AddressRange kept_;  // where the first spares are
};

}  // namespace calotype
