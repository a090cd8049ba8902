// The one exception type of Calotype's C++ API.
#pragma once

#include <stdexcept>
#include <string>

#include "calotype/export.h"

namespace calotype {

enum class ErrorCode {
  kInvalidArgument,  // the caller asked for something that makes no sense (wrong usage)
  kNotFound,         // a file, model or device that is not there
  kInvalidData,      // a file or buffer whose content cannot be what it claims to be
  kUnsupported,      // well-formed, but nothing here implements it
  kIo,               // the operating system refused to read or write
  kOutOfMemory,      // a memory budget or the machine is too small
  kCancelled,        // the progress callback said stop
  kInternal,         // a fault of Calotype's own
};

// `what()` is one full sentence for the user: which file, which tensor, what was expected, what was
// found, what to do.
class CALOTYPE_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace calotype
