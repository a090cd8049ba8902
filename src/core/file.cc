#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <random>

#include "core/cat.h"

namespace calotype {
namespace {

// Closes on the way out, whatever happens.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ > STDERR_FILENO) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string reason() { return std::strerror(errno); }

int open_for_reading(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const bool missing = errno == ENOENT || errno == ENOTDIR;
    fail(missing ? ErrorCode::kNotFound : ErrorCode::kIo, path, ": cannot be opened: ", reason());
  }
  return fd;
}

// Where writing to `path` ends: links are followed, those too whose target does not exist yet.
std::string link_target(const std::string& path) {
  constexpr int kMostLinks = 40;  // as Linux
  std::error_code ignored;
  std::filesystem::path target = path;
  for (int i = 0; std::filesystem::is_symlink(target, ignored); ++i) {
    if (i == kMostLinks) {
      fail(ErrorCode::kIo, path, ": cannot be written: ", std::strerror(ELOOP));
    }
    target = target.parent_path() / std::filesystem::read_symlink(target, ignored);
  }
  return target.string();
}

// Temporaries that are open now, for a signal handler: fixed slots, so that no lock is needed.
constexpr size_t kSlots = 64, kPathLimit = 4096;
struct Slot {
  std::atomic<bool> used{false};
  std::atomic<bool> ready{false};
  std::array<char, kPathLimit> path{};
};
std::array<Slot, kSlots> g_temporaries;

void remember(const std::string& path) {
  if (path.size() >= kPathLimit) return;
  for (Slot& slot : g_temporaries) {
    bool expected = false;
    if (!slot.used.compare_exchange_strong(expected, true)) continue;
    std::memcpy(slot.path.data(), path.c_str(), path.size() + 1);
    slot.ready = true;
    return;
  }
}

void forget(const std::string& path) {
  for (Slot& slot : g_temporaries) {
    if (slot.ready && path == slot.path.data()) {
      slot.ready = false;
      slot.used = false;
      return;
    }
  }
}

}  // namespace

void remove_temporaries() noexcept {
  for (Slot& slot : g_temporaries) {
    if (slot.ready) ::unlink(slot.path.data());
  }
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  const Descriptor file(open_for_reading(path));
  struct stat info;
  if (::fstat(file.get(), &info) != 0) fail(ErrorCode::kIo, path, ": cannot be read: ", reason());
  if (!S_ISREG(info.st_mode)) {
    fail(ErrorCode::kInvalidData, path, ": is not a regular file",
         S_ISDIR(info.st_mode) ? " but a folder" : "");
  }
  struct Access : MappedFile {};  // make_shared needs a public constructor
  auto mapped = std::make_shared<Access>();
  mapped->path_ = path;
  mapped->size_ = static_cast<size_t>(info.st_size);
  if (mapped->size_ > 0) {
    void* memory = ::mmap(nullptr, mapped->size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (memory == MAP_FAILED) {
      mapped->size_ = 0;
      fail(ErrorCode::kIo, path, ": cannot be mapped: ", reason());
    }
    mapped->data_ = static_cast<const std::byte*>(memory);
  }
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::vector<std::byte> read_file(const std::string& path, size_t limit, const CheckFirst& check) {
  const bool standard = path == "-";
  const std::string name = standard ? "standard input" : path;
  const Descriptor file(standard ? STDIN_FILENO : open_for_reading(path));
  struct stat info;
  std::vector<std::byte> bytes;
  if (::fstat(file.get(), &info) == 0 && S_ISREG(info.st_mode)) {
    if (static_cast<size_t>(info.st_size) > limit) {
      fail(ErrorCode::kInvalidData, name, ": has ", info.st_size, " bytes, more than the ", limit,
           " that are read");
    }
    bytes.reserve(static_cast<size_t>(info.st_size) + 1);
  }
  constexpr size_t kChunk = size_t{1} << 16;  // what a pipe gives at most
  bool checked = !check;
  for (;;) {
    const size_t have = bytes.size();
    bytes.resize(have + kChunk);
    const ssize_t got = ::read(file.get(), bytes.data() + have, bytes.size() - have);
    if (got < 0 && errno != EINTR) fail(ErrorCode::kIo, name, ": cannot be read: ", reason());
    bytes.resize(have + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (!checked && (got == 0 || bytes.size() >= kFirstBytes)) {
      check(std::span(bytes).first(std::min(bytes.size(), kFirstBytes)));
      checked = true;
    }
    if (got == 0) return bytes;
    if (bytes.size() > limit) {
      fail(ErrorCode::kInvalidData, name, ": has more than the ", limit, " bytes that are read");
    }
  }
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  if (path == "-") {
    path_ = "standard output";
    fd_ = STDOUT_FILENO;
    return;
  }
  struct stat info;
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists) {
    if (S_ISDIR(info.st_mode))
      fail(ErrorCode::kInvalidArgument, path, ": is a folder; name a file in it");
    if (!S_ISREG(info.st_mode)) {  // a device or pipe cannot be replaced by renaming
      fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
      if (fd_ < 0) fail(ErrorCode::kIo, path, ": cannot be written: ", reason());
      return;
    }
  }
  path_ = link_target(path);  // what a link names is replaced, not the link
  // What replaces a private file stays private; a new one gets what the umask leaves.
  const mode_t mode = exists ? info.st_mode & 0777 : 0666;
  std::random_device random;
  // A short name of its own: with anything after it, the longest names would be too long.
  const std::string folder = path_.substr(0, path_.rfind('/') + 1);
  do {
    temporary_ = cat(folder, ".calotype-", std::hex, random());
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  } while (fd_ < 0 && errno == EEXIST);
  if (fd_ < 0) {
    const bool missing = errno == ENOENT || errno == ENOTDIR;
    const std::string why = missing ? "its folder does not exist" : reason();
    temporary_.clear();
    fail(missing ? ErrorCode::kNotFound : ErrorCode::kIo, path, ": cannot be written: ", why);
  }
  if (exists) ::fchmod(fd_, mode);  // whatever the umask
  remember(temporary_);
}

AtomicFile::~AtomicFile() {
  if (fd_ > STDERR_FILENO) ::close(fd_);
  if (!temporary_.empty()) {
    ::unlink(temporary_.c_str());
    forget(temporary_);
  }
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(fd_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) fail(ErrorCode::kIo, path_, ": cannot be written: ", reason());
    bytes = bytes.subspan(static_cast<size_t>(wrote));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::commit() {
  if (temporary_.empty()) return;
  if (::fsync(fd_) != 0) fail(ErrorCode::kIo, path_, ": cannot be written: ", reason());
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail(ErrorCode::kIo, path_, ": cannot be written: ", reason());
  }
  forget(temporary_);
  temporary_.clear();
}

void write_file(const std::string& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_file(const std::string& path, std::string_view text) {
  write_file(path, std::as_bytes(std::span(text)));
}

}  // namespace calotype
