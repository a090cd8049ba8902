#include "core/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "support/errors.h"
#include "support/random.h"

namespace calotype {
namespace {

using test::sentence_of;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class Files : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_.path(name); }
  void put(const std::string& name, const std::string& text) {
    std::ofstream(path(name), std::ios::binary) << text;
  }
  std::string get(const std::string& name) const { return text_of(read_file(path(name))); }
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      list.push_back(entry.path().filename().string());
    }
    std::sort(list.begin(), list.end());
    return list;
  }

  test::TemporaryFolder folder_;
};

class MapFile : public Files {};

TEST_F(MapFile, shows_the_bytes_even_after_the_file_is_removed) {
  put("a", std::string("x\0y", 3));
  const auto mapped = MappedFile::open(path("a"));
  std::filesystem::remove(path("a"));
  EXPECT_EQ(text_of(mapped->bytes()), std::string("x\0y", 3));
  EXPECT_EQ(mapped->path(), path("a"));
}

TEST_F(MapFile, shows_nothing_of_an_empty_file) {
  put("a", "");
  EXPECT_TRUE(MappedFile::open(path("a"))->bytes().empty());
}

TEST_F(MapFile, refuses_what_is_no_regular_file) {
  EXPECT_THAT(sentence_of([&] { MappedFile::open(path("none")); }, ErrorCode::kNotFound),
              HasSubstr(path("none")));
  sentence_of([&] { MappedFile::open(path("none/a")); }, ErrorCode::kNotFound);
  EXPECT_THAT(sentence_of([&] { MappedFile::open(path("")); }, ErrorCode::kInvalidData),
              HasSubstr("folder"));
  EXPECT_THAT(sentence_of([&] { MappedFile::open("/dev/null"); }, ErrorCode::kInvalidData),
              HasSubstr("regular"));
}

class ReadFile : public Files {};

TEST_F(ReadFile, reads_all_of_it) {
  const std::string text(3'000'001, 'q');
  put("a", text);
  EXPECT_EQ(get("a"), text);
  put("b", "");
  EXPECT_EQ(get("b"), "");
}

TEST_F(ReadFile, stops_at_the_limit) {
  put("a", "12345");
  EXPECT_EQ(read_file(path("a"), 5).size(), 5u);
  EXPECT_THAT(sentence_of([&] { read_file(path("a"), 4); }, ErrorCode::kInvalidData),
              HasSubstr(path("a")));
  // A file that has no size of its own ends at the limit too.
  sentence_of([] { read_file("/dev/zero", 1 << 20); }, ErrorCode::kInvalidData);
}

TEST_F(ReadFile, shows_the_first_bytes_before_it_reads_on) {
  const auto refuse = [](std::span<const std::byte> first) {
    throw Error(ErrorCode::kUnsupported, std::to_string(first.size()));
  };
  EXPECT_EQ(sentence_of([&] { read_file("/dev/zero", 1 << 20, refuse); }, ErrorCode::kUnsupported),
            "16");
  put("a", "123");
  EXPECT_EQ(sentence_of([&] { read_file(path("a"), 9, refuse); }, ErrorCode::kUnsupported), "3");
  int calls = 0;
  put("a", std::string(3 << 20, 'x'));
  read_file(path("a"), 4 << 20, [&](std::span<const std::byte>) { ++calls; });
  EXPECT_EQ(calls, 1);
}

TEST_F(ReadFile, says_what_is_missing) {
  EXPECT_THAT(sentence_of([&] { read_file(path("none")); }, ErrorCode::kNotFound),
              HasSubstr("No such file"));
  sentence_of([&] { read_file(path("")); }, ErrorCode::kIo);
}

class WholeOrNothing : public Files {};

TEST_F(WholeOrNothing, appears_on_commit_alone) {
  put("a", "old");
  {
    AtomicFile file(path("a"));
    file.write("new");
    EXPECT_EQ(get("a"), "old");
    file.commit();
    EXPECT_EQ(get("a"), "new");
  }
  EXPECT_EQ(get("a"), "new");
  EXPECT_THAT(names(), ElementsAre("a"));
}

TEST_F(WholeOrNothing, leaves_nothing_behind_without_commit) {
  put("a", "old");
  {
    AtomicFile file(path("a")), another(path("b"));
    file.write("new");
    another.write("new");
  }
  EXPECT_EQ(get("a"), "old");
  EXPECT_THAT(names(), ElementsAre("a"));
}

TEST_F(WholeOrNothing, takes_the_longest_names) {
  const std::string name(255, 'n');
  write_file(path(name), "text");
  EXPECT_EQ(get(name), "text");
  EXPECT_THAT(names(), ElementsAre(name));
}

TEST_F(WholeOrNothing, writes_through_links_whose_target_does_not_exist_yet) {
  std::filesystem::create_directory(path("real"));
  std::filesystem::create_symlink("real/file", path("second"));
  std::filesystem::create_symlink(path("second"), path("first"));
  write_file(path("first"), "text");
  EXPECT_TRUE(std::filesystem::is_symlink(path("first")));
  EXPECT_TRUE(std::filesystem::is_symlink(path("second")));
  EXPECT_EQ(get("real/file"), "text");
  std::filesystem::create_symlink("circle", path("circle"));
  EXPECT_THAT(sentence_of([&] { AtomicFile(path("circle")); }, ErrorCode::kIo),
              HasSubstr("symbolic links"));
}

TEST_F(WholeOrNothing, writes_in_one_call) {
  write_file(path("a"), "text");
  EXPECT_EQ(get("a"), "text");
  const std::vector<std::byte> bytes(5, std::byte{0});
  write_file(path("a"), bytes);
  EXPECT_EQ(get("a"), std::string(5, '\0'));
}

TEST_F(WholeOrNothing, needs_a_folder_that_exists) {
  EXPECT_THAT(sentence_of([&] { AtomicFile(path("none/a")); }, ErrorCode::kNotFound),
              testing::AllOf(HasSubstr(path("none/a")), HasSubstr("folder does not exist")));
  put("a", "");
  sentence_of([&] { AtomicFile(path("a/b")); }, ErrorCode::kNotFound);
  EXPECT_THAT(sentence_of([&] { AtomicFile(path("")); }, ErrorCode::kInvalidArgument),
              HasSubstr("is a folder"));
}

TEST_F(WholeOrNothing, says_when_the_disk_is_full) {
  AtomicFile file("/dev/full");
  EXPECT_THAT(sentence_of([&] { file.write("text"); }, ErrorCode::kIo),
              testing::AllOf(StartsWith("/dev/full"), HasSubstr("No space left")));
}

// No more than `bytes` in any file of this process, as on a disk that fills up.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : signal_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, signal_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit old_;
  void (*signal_)(int);
};

TEST_F(WholeOrNothing, keeps_the_old_file_when_writing_fails_half_way) {
  put("a", "old");
  {
    const FileSizeLimit limit(1000);
    EXPECT_THAT(sentence_of([&] { write_file(path("a"), std::string(5000, 'x')); }, ErrorCode::kIo),
                StartsWith(path("a")));
  }
  EXPECT_EQ(get("a"), "old");
  EXPECT_THAT(names(), ElementsAre("a"));
}

TEST_F(WholeOrNothing, writes_to_devices_and_pipes_as_they_are) {
  write_file("/dev/null", "text");
  struct stat info;
  ASSERT_EQ(::stat("/dev/null", &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));

  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  std::string read;
  std::thread reader([&] { read = get("pipe"); });
  write_file(path("pipe"), "through");
  reader.join();
  EXPECT_EQ(read, "through");
  EXPECT_THAT(names(), ElementsAre("pipe"));
}

TEST_F(WholeOrNothing, replaces_what_a_link_points_to) {
  put("target", "old");
  std::filesystem::create_symlink("target", path("link"));
  write_file(path("link"), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
  EXPECT_EQ(get("target"), "new");
  EXPECT_THAT(names(), ElementsAre("link", "target"));
}

mode_t mode_of(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 ? info.st_mode & 07777 : 0;
}

TEST_F(WholeOrNothing, gives_new_files_the_usual_mode_and_keeps_that_of_old_ones) {
  const mode_t old_mask = ::umask(027);
  write_file(path("new"), "text");
  EXPECT_EQ(mode_of(path("new")), 0640u);
  ASSERT_EQ(::chmod(path("new").c_str(), 0600), 0);
  write_file(path("new"), "secret");
  EXPECT_EQ(mode_of(path("new")), 0600u);
  ::umask(old_mask);
}

TEST_F(WholeOrNothing, is_one_whole_file_whoever_writes_last) {
  std::vector<std::thread> writers;
  for (char c = 'a'; c < 'i'; c++) {
    writers.emplace_back([&, c] { write_file(path("x"), std::string(100'000, c)); });
  }
  for (std::thread& writer : writers) writer.join();
  const std::string text = get("x");
  EXPECT_EQ(text, std::string(100'000, text.at(0)));
  EXPECT_THAT(names(), ElementsAre("x"));
}

TEST_F(WholeOrNothing, takes_its_temporaries_away_when_a_program_is_ended) {
  AtomicFile file(path("a"));
  file.write("half");
  EXPECT_EQ(names().size(), 1u);
  remove_temporaries();
  EXPECT_THAT(names(), IsEmpty());
}

TEST_F(WholeOrNothing, writes_standard_output) {
  testing::internal::CaptureStdout();
  write_file("-", "to the terminal");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "to the terminal");
}

}  // namespace
}  // namespace calotype
