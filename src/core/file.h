// Files: mapped for reading, whole or not at all for writing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "calotype/interrupt.h"

namespace calotype {

// A read-only mapping of a regular file. The bytes are hostile; a file that shrinks while it is
// mapped is not defended against.
class MappedFile {
 public:
  // Throws Error(kNotFound, kIo). An empty file maps to an empty span.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// All of a file, or of standard input where path is "-". Throws Error(kNotFound, kIo), or
// kInvalidData beyond `limit` bytes. `check` gets the first kFirstBytes, or all where it is less,
// before the rest is read: what throws there need not end.
using CheckFirst = std::function<void(std::span<const std::byte> first)>;
std::vector<std::byte> read_file(const std::string& path, size_t limit = size_t{1} << 40,
                                 const CheckFirst& check = {});
inline constexpr size_t kFirstBytes = 16;

// What is read of standard input at most: latents of 1 Gpixel, 16 channels and float32.
inline constexpr int64_t kLongestStream = int64_t{4} << 30;

// Writes beside `path` and renames on commit(), after fsync: readers see the old file or the whole
// new one. Without commit() nothing stays behind. "-" writes to standard output. Devices and pipes
// that exist (/dev/null, /dev/full) are written to directly.
class AtomicFile {
 public:
  explicit AtomicFile(
      const std::string& path);  // throws Error(kNotFound) where the folder does not exist, kIo
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte>
                 bytes);  // throws Error(kIo) naming the path and the reason (no space left …)
  void write(std::string_view text);
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

void write_file(const std::string& path, std::span<const std::byte> bytes);
void write_file(const std::string& path, std::string_view text);

}  // namespace calotype
