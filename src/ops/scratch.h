// The scratch file: activations that do not fit into memory, written and read while the cores
// compute.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace calotype {

// The folder for scratch files: `folder`, else $TMPDIR, else /var/tmp.
std::string scratch_folder(const std::string& folder);
// True where the folder's files live in memory (tmpfs, ramfs): spilling there frees nothing.
bool is_memory_backed(const std::string& folder);

// An unlinked file: it is gone with the process, however that ends. Reads and writes are queued and
// done by one thread in order, past the page cache. Offsets, addresses and sizes are multiples of
// kScratchPage.
constexpr int64_t kScratchPage = 4096;

class Scratch {
 public:
  // Reserves `bytes` at once: a disk that is too full is an error before anything is computed.
  // Throws Error(kIo, kNotFound).
  Scratch(const std::string& folder, int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Each returns a ticket for await().
  int64_t write(int64_t offset, const std::byte* data, int64_t bytes);
  int64_t read(int64_t offset, std::byte* data, int64_t bytes);
  // Until that job, and all before it, are done. Throws what went wrong in any of them.
  void await(int64_t ticket);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace calotype
