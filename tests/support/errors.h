// What an Error says, for tests of refusals.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "calotype/error.h"

namespace calotype::test {

// The sentence of the Error that `call` throws, which must have this code.
template <class Call>
std::string sentence_of(Call call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace calotype::test
