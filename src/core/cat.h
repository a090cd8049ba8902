// cat("tensor ", name, " has ", n, " elements"): the text of its arguments, one after the other.
#pragma once

#include <sstream>
#include <string>

#include "calotype/error.h"

namespace calotype {

template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream text;
  (text << ... << args);
  return std::move(text).str();
}

template <class... Args>
[[noreturn]] void fail(ErrorCode code, const Args&... sentence) {
  throw Error(code, cat(sentence...));
}

}  // namespace calotype
