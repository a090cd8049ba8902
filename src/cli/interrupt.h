// The ways to end in the middle of things: SIGINT and SIGTERM, and memory that ran out where C++
// cannot unwind.
//
// Jobs that read their progress callback end themselves: while an Interruptible lives, the first
// signal only raises a flag. At any other time, and at the second signal, the program ends at once;
// unfinished files are removed either way.
#pragma once

namespace calotype::cli {

void install_signal_handlers();

// Libraries allocate in destructors too; what is thrown there ends the program at once, with the
// sentence that std::bad_alloc gets elsewhere.
void install_terminate_handler();

bool interrupted();

// Throws Error(kCancelled) where a signal has come.
void stop_if_interrupted();

class Interruptible {
 public:
  Interruptible();
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
};

// job() while signals are asked for; what it returns is dropped when one has come.
template <class Job>
auto interruptible(const Job& job) {
  const Interruptible scope;
  auto result = job();
  stop_if_interrupted();
  return result;
}

}  // namespace calotype::cli
