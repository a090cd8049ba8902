#include "cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <string_view>

#include "calotype/error.h"
#include "calotype/interrupt.h"

namespace calotype::cli {
namespace {

constexpr int kExitInterrupted = 130;
std::atomic<bool> g_interrupted{false};
std::atomic<int> g_polling{0};
std::atomic<bool> g_terminal{false};  // standard error is one
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void on_signal(int) {
  const bool again = g_interrupted.exchange(true);
  if (g_polling.load() > 0 && !again) return;
  remove_temporaries();
  constexpr std::string_view kMessage = "calotype: interrupted\n", kEraseBar = "\r\033[K";
  // Nothing could be done about a message that cannot be written.
  const bool told =
      (!g_terminal || ::write(STDERR_FILENO, kEraseBar.data(), kEraseBar.size()) > 0) &&
      ::write(STDERR_FILENO, kMessage.data(), kMessage.size()) > 0;
  static_cast<void>(told);
  ::_exit(kExitInterrupted);
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

bool interrupted() { return g_interrupted.load(); }

void stop_if_interrupted() {
  if (interrupted()) throw Error(ErrorCode::kCancelled, "interrupted");
}

Interruptible::Interruptible() { ++g_polling; }
Interruptible::~Interruptible() { --g_polling; }

}  // namespace calotype::cli
