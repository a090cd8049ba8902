#include "ops/scratch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "support/errors.h"
#include "support/random.h"

namespace calotype::test {
namespace {

using testing::HasSubstr;

struct FreeMemory {
  void operator()(std::byte* p) const noexcept { std::free(p); }
};

std::unique_ptr<std::byte, FreeMemory> pages(int64_t count, int value) {
  const auto bytes = static_cast<size_t>(count * kScratchPage);
  auto* memory =
      static_cast<std::byte*>(std::aligned_alloc(static_cast<size_t>(kScratchPage), bytes));
  std::memset(memory, value, bytes);
  return std::unique_ptr<std::byte, FreeMemory>(memory);
}

TEST(Scratch, gives_back_what_was_written) {
  const TemporaryFolder folder;
  Scratch scratch(folder.path(), 8 * kScratchPage);
  const auto a = pages(3, 1), b = pages(2, 2);
  scratch.write(0, a.get(), 3 * kScratchPage);
  scratch.write(5 * kScratchPage, b.get(), 2 * kScratchPage);
  const auto read = pages(5, 9);
  scratch.read(0, read.get(), 3 * kScratchPage);
  scratch.await(scratch.read(5 * kScratchPage, read.get() + 3 * kScratchPage, 2 * kScratchPage));
  EXPECT_EQ(std::memcmp(read.get(), a.get(), static_cast<size_t>(3 * kScratchPage)), 0);
  EXPECT_EQ(
      std::memcmp(read.get() + 3 * kScratchPage, b.get(), static_cast<size_t>(2 * kScratchPage)),
      0);
}

TEST(Scratch, does_jobs_in_order) {
  const TemporaryFolder folder;
  Scratch scratch(folder.path(), kScratchPage);
  const auto read = pages(1, 0);
  std::vector<std::unique_ptr<std::byte, FreeMemory>> written;
  int64_t ticket = 0;
  for (int i = 1; i <= 50; i++) {
    written.push_back(pages(1, i));
    scratch.write(0, written.back().get(), kScratchPage);
    ticket = scratch.read(0, read.get(), kScratchPage);
  }
  scratch.await(ticket);
  EXPECT_EQ(read.get()[0], std::byte{50});
}

TEST(Scratch, has_no_name_that_could_stay_behind) {
  const TemporaryFolder folder;
  const Scratch scratch(folder.path(), 1000 * kScratchPage);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Scratch, refuses_a_folder_that_is_not_there_or_too_small) {
  const TemporaryFolder folder;
  EXPECT_THAT(
      sentence_of([&] { Scratch(folder.path("none"), kScratchPage); }, ErrorCode::kNotFound),
      HasSubstr(folder.path("none")));
  EXPECT_THAT(sentence_of([&] { Scratch(folder.path(), int64_t{1} << 60); }, ErrorCode::kIo),
              HasSubstr(folder.path()));
}

// A file system in memory that holds no more than a MiB; where none can be mounted, nothing is
// tested.
class SmallDisk {
 public:
  SmallDisk() : mounted_(::mount("none", folder_.path().c_str(), "tmpfs", 0, "size=1m") == 0) {}
  ~SmallDisk() {
    if (mounted_) ::umount(folder_.path().c_str());
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool mounted() const { return mounted_; }
  std::string path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
  bool mounted_;
};

TEST(Scratch, names_a_disk_that_is_full_before_anything_is_written) {
  const SmallDisk disk;
  if (!disk.mounted()) GTEST_SKIP() << "no file system can be mounted here";
  const std::string sentence =
      sentence_of([&] { Scratch(disk.path(), int64_t{2} << 20); }, ErrorCode::kIo);
  EXPECT_THAT(sentence, HasSubstr(disk.path()));
  EXPECT_THAT(sentence, HasSubstr("--scratch"));
  Scratch fits(disk.path(), kScratchPage);
}

TEST(ScratchFolder, on_tmpfs_is_memory) {
  const SmallDisk disk;
  if (disk.mounted()) {
    EXPECT_TRUE(is_memory_backed(disk.path()));
  }
  struct statfs info = {};
  if (::statfs("/dev/shm", &info) == 0 && info.f_type == 0x01021994) {
    EXPECT_TRUE(is_memory_backed("/dev/shm"));
  }
  EXPECT_FALSE(is_memory_backed("/proc"));
  EXPECT_FALSE(is_memory_backed("/not/there"));
}

TEST(ScratchFolder, is_the_one_named_else_that_of_temporary_files) {
  EXPECT_EQ(scratch_folder("/somewhere"), "/somewhere");
  const char* old = std::getenv("TMPDIR");
  const std::string kept = old == nullptr ? "" : old;
  setenv("TMPDIR", "/elsewhere", 1);
  EXPECT_EQ(scratch_folder(""), "/elsewhere");
  unsetenv("TMPDIR");
  EXPECT_EQ(scratch_folder(""), "/var/tmp");
  if (old != nullptr) setenv("TMPDIR", kept.c_str(), 1);
}

}  // namespace
}  // namespace calotype::test
