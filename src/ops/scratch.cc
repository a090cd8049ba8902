#include "ops/scratch.h"

#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "core/cat.h"

namespace calotype {

std::string scratch_folder(const std::string& folder) {
  if (!folder.empty()) return folder;
  const char* temporary = std::getenv("TMPDIR");
  return temporary != nullptr && *temporary != '\0' ? temporary : "/var/tmp";
}

bool is_memory_backed(const std::string& folder) {
  constexpr long kTmpfs = 0x01021994, kRamfs = 0x858458f6;  // linux/magic.h
  struct statfs info;
  if (::statfs(folder.c_str(), &info) != 0) return false;
  return info.f_type == kTmpfs ||
         static_cast<unsigned long>(info.f_type) == static_cast<unsigned long>(kRamfs);
}

struct Scratch::State {
  struct Job {
    bool writes;
    int64_t offset;
    std::byte* data;
    int64_t bytes;
  };

  std::string folder;
  int fd = -1;
  bool direct = true;  // past the page cache
  std::mutex mutex;
  std::condition_variable wake, done_one;
  std::deque<Job> jobs;
  int64_t queued = 0, done = 0;
  bool stop = false;
  std::exception_ptr error;
  std::thread thread;

  ~State() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
      jobs.clear();
    }
    wake.notify_all();
    if (thread.joinable()) thread.join();
    if (fd >= 0) ::close(fd);
  }

  [[noreturn]] void fail_io(const char* what, int error_number) const {
    fail(ErrorCode::kIo, "the scratch folder ", folder, " ", what, ": ",
         std::strerror(error_number),
         error_number == ENOSPC ? "; name another with --scratch, or give more memory" : "");
  }

  void open(int64_t bytes) {
    std::string path = folder + "/calotype-scratch-XXXXXX";
    fd = ::mkostemp(path.data(), O_CLOEXEC);
    if (fd < 0) {
      fail(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, "the scratch folder ", folder,
           " cannot be written: ", std::strerror(errno));
    }
    ::unlink(path.c_str());
    if (const int error_number = ::posix_fallocate(fd, 0, bytes); error_number != 0) {
      fail_io(cat("has no room for ", bytes, " bytes").c_str(), error_number);
    }
    const int flags = ::fcntl(fd, F_GETFL);
    direct = ::fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;
  }

  void transfer(const Job& job) {
    int64_t at = 0;
    while (at < job.bytes) {
      const auto size = static_cast<size_t>(job.bytes - at);
      const ssize_t moved = job.writes ? ::pwrite(fd, job.data + at, size, job.offset + at)
                                       : ::pread(fd, job.data + at, size, job.offset + at);
      if (moved < 0 && errno == EINTR) continue;
      if (moved < 0 && errno == EINVAL &&
          direct) {  // a file system that takes O_DIRECT and then does not
        direct = false;
        ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_DIRECT);
        continue;
      }
      if (moved <= 0)
        fail_io(job.writes ? "cannot be written" : "cannot be read", moved == 0 ? EIO : errno);
      at += moved;
    }
    if (direct) return;
    if (job.writes) ::fdatasync(fd);  // dirty pages cannot be dropped
    ::posix_fadvise(fd, job.offset, job.bytes, POSIX_FADV_DONTNEED);
  }

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stop || !jobs.empty(); });
      if (stop) return;
      const Job job = jobs.front();
      jobs.pop_front();
      lock.unlock();
      std::exception_ptr problem;
      try {
        transfer(job);
      } catch (...) {
        problem = std::current_exception();
      }
      lock.lock();
      if (problem && !error) error = problem;
      done++;
      done_one.notify_all();
    }
  }

  int64_t add(Job job) {
    const std::lock_guard lock(mutex);
    jobs.push_back(job);
    wake.notify_one();
    return ++queued;
  }
};

Scratch::Scratch(const std::string& folder, int64_t bytes) : state_(std::make_unique<State>()) {
  state_->folder = folder;
  state_->open(bytes);
  state_->thread = std::thread([state = state_.get()] { state->work(); });
}

Scratch::~Scratch() = default;

int64_t Scratch::write(int64_t offset, const std::byte* data, int64_t bytes) {
  return state_->add({true, offset, const_cast<std::byte*>(data), bytes});
}

int64_t Scratch::read(int64_t offset, std::byte* data, int64_t bytes) {
  return state_->add({false, offset, data, bytes});
}

void Scratch::await(int64_t ticket) {
  std::unique_lock lock(state_->mutex);
  state_->done_one.wait(lock, [&] { return state_->done >= ticket || state_->error != nullptr; });
  if (state_->error) std::rethrow_exception(state_->error);
}

}  // namespace calotype
