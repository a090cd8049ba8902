#include "cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <new>
#include <string_view>

#include "calotype/error.h"
#include "calotype/interrupt.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

std::atomic<bool> g_interrupted{false};
std::atomic<int> g_polling{0};
std::atomic<bool> g_terminal{false};  // standard error is one
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

// "calotype: SENTENCE" on standard error, without unfinished files and without allocating.
[[noreturn]] void end_at_once(std::string_view sentence, int code) {
  remove_temporaries();
  constexpr std::string_view kEraseBar = "\r\033[K", kName = "calotype: ", kEnd = "\n";
  for (const std::string_view text : {g_terminal ? kEraseBar : "", kName, sentence, kEnd}) {
    // Nothing could be done about a message that cannot be written.
    if (::write(STDERR_FILENO, text.data(), text.size()) < 0) break;
  }
  ::_exit(code);
}

void on_signal(int) {
  const bool again = g_interrupted.exchange(true);
  if (g_polling.load() > 0 && !again) return;
  end_at_once("interrupted", kInterrupted);
}

void on_terminate() {
  try {
    if (const std::exception_ptr error = std::current_exception()) std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    end_at_once(kOutOfMemory, kFailed);
  } catch (...) {
    // A fault of ours: a core is worth more than a sentence.
  }
  std::abort();
}

}  // namespace

void install_signal_handlers() {
  g_terminal = ::isatty(STDERR_FILENO) == 1;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM}) {
    struct sigaction old;
    // A parent that ignores SIGINT for us (nohup, a shell's background job) is obeyed.
    if (::sigaction(signal, nullptr, &old) == 0 && old.sa_handler == SIG_IGN) continue;
    ::sigaction(signal, &action, nullptr);
  }
}

void install_terminate_handler() { std::set_terminate(on_terminate); }

bool interrupted() { return g_interrupted.load(); }

void stop_if_interrupted() {
  if (interrupted()) throw Error(ErrorCode::kCancelled, "interrupted");
}

Interruptible::Interruptible() { ++g_polling; }
Interruptible::~Interruptible() { --g_polling; }

}  // namespace calotype::cli
