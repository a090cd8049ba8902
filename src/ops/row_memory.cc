#include "ops/row_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "core/cat.h"
#include "core/checked.h"
#include "core/no_memory.h"

namespace calotype {
int64_t chunk_bytes_for(int64_t largest) {
  const auto wanted = static_cast<int64_t>(
      std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(largest / 256, 1))));
  // Huge pages where the picture is so large that a few of them more do not matter: they save nine
  // tenths of the time that the first touch of memory takes.
  const int64_t least = largest >= 16 * kHugePage ? kHugePage : int64_t{64} << 10;
  return std::clamp(wanted, least, int64_t{16} << 20);
}

RowChunks::RowChunks(int64_t batch, int64_t rows, int64_t row_bytes, int64_t chunk_bytes)
    : batch_(batch), rows_(rows), row_bytes_(row_bytes), chunk_bytes_(chunk_bytes) {
  const int64_t bytes = checked_mul(rows, row_bytes);
  picture_chunks_ = checked_add(bytes, chunk_bytes - 1) / chunk_bytes;
  checked_mul(checked_mul(picture_chunks_, chunk_bytes), batch);
}

std::pair<int64_t, int64_t> RowChunks::materialize(int64_t last_row) {
  const int64_t last = (std::min(last_row, rows_) * row_bytes_ + chunk_bytes_ - 1) / chunk_bytes_;
  const std::pair<int64_t, int64_t> added = {last_, std::max(last, last_)};
  last_ = added.second;
  return added;
}

std::pair<int64_t, int64_t> RowChunks::release(int64_t row) {
  // The last chunk goes with the last row, though it may not be full.
  const int64_t first = row >= rows_ ? picture_chunks_ : row * row_bytes_ / chunk_bytes_;
  const std::pair<int64_t, int64_t> freed = {first_, std::clamp(first, first_, last_)};
  first_ = freed.second;
  if (first_ == picture_chunks_) first_ = last_ = 0;  // all gone: it may be made again
  return freed;
}

AddressRange::AddressRange(int64_t bytes, int64_t chunk_bytes)
    : bytes_(static_cast<size_t>(checked_add(bytes, kHugePage))) {
  // Addresses cost nothing: memory comes with the first touch.
  void* base = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) fail_no_memory("the addresses of an activation of ", bytes, " bytes");
  base_ = static_cast<std::byte*>(base);
  const auto address = reinterpret_cast<uintptr_t>(base_);
  data_ = base_ + (kHugePage - static_cast<int64_t>(address % kHugePage)) % kHugePage;
  // Huge pages save faults, but one that is larger than a chunk would take more memory than is
  // alive.
  ::madvise(base_, bytes_, chunk_bytes % kHugePage == 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

AddressRange::~AddressRange() {
  if (base_ != nullptr) ::munmap(base_, bytes_);
}

AddressRange::AddressRange(AddressRange&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_) {}

AddressRange& AddressRange::operator=(AddressRange&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

RowMemory::RowMemory(int64_t chunk_bytes, KeptPages kept) : chunk_bytes_(chunk_bytes) {
  const auto huge = [](int64_t bytes) { return bytes % kHugePage == 0; };
  if (kept.bytes == 0 || huge(kept.chunk_bytes) != huge(chunk_bytes)) return;
  kept_ = std::move(kept.range);
  const int64_t whole = kept.bytes / chunk_bytes * chunk_bytes;
  for (int64_t at = 0; at < whole; at += chunk_bytes) spares_.push_back(kept_.data() + at);
  if (whole == kept.bytes) return;
  ::madvise(kept_.data() + whole, static_cast<size_t>(kept.bytes - whole), MADV_DONTNEED);
}

bool move_pages([[maybe_unused]] std::byte* from, [[maybe_unused]] int64_t bytes,
                [[maybe_unused]] std::byte* to) {
#if defined(__linux__) && defined(MREMAP_DONTUNMAP)
  const auto size = static_cast<size_t>(bytes);
  return ::mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) !=
         MAP_FAILED;
#else
  return false;
#endif
}

void RowMemory::deal(std::byte* chunk) {
  alive_++;
  // A chunk that is made again may be a spare itself: another's memory over it would leave it in
  // the list, to be moved away while it is alive.
  if (std::erase(spares_, chunk) > 0) return;
  if (spares_.empty()) return;  // new memory comes with the first touch
  std::byte* spare = spares_.back();
  spares_.pop_back();
  // An old kernel: the memory goes back, and new is cleared.
  if (!move_pages(spare, chunk_bytes_, chunk))
    ::madvise(spare, static_cast<size_t>(chunk_bytes_), MADV_DONTNEED);
}

void RowMemory::trim(int64_t bytes) {
  while (!spares_.empty() && held_bytes() > bytes) {
    ::madvise(spares_.back(), static_cast<size_t>(chunk_bytes_), MADV_DONTNEED);
    spares_.pop_back();
  }
}

KeptPages RowMemory::keep(int64_t most) {
  KeptPages kept;
  const int64_t count =
      std::min<int64_t>(static_cast<int64_t>(spares_.size()), most / chunk_bytes_);
  trim((alive_ + count) * chunk_bytes_);
  if (spares_.empty()) return kept;
  kept.chunk_bytes = chunk_bytes_;
  kept.range = AddressRange(count * chunk_bytes_, chunk_bytes_);
  while (!spares_.empty() &&
         move_pages(spares_.back(), chunk_bytes_, kept.range.data() + kept.bytes)) {
    spares_.pop_back();
    kept.bytes += chunk_bytes_;
  }
  trim(0);
#ifdef MADV_FREE
  if (kept.bytes > 0) ::madvise(kept.range.data(), static_cast<size_t>(kept.bytes), MADV_FREE);
#endif
  return kept;
}

}  // namespace calotype
