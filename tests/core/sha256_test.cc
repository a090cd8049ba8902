#include "core/sha256.h"

#include <gtest/gtest.h>

#include <string>

namespace calotype {
namespace {

// FIPS 180-4, the examples of NIST.
TEST(Sha256, gives_the_known_answers) {
  EXPECT_EQ(Sha256().hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256().update("abc").hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256().update("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq").hex(),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256().update(std::string(1'000'000, 'a')).hex(),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, does_not_depend_on_the_pieces) {
  const std::string text(1000, 'x');
  for (const size_t piece : {1u, 7u, 63u, 64u, 65u, 999u}) {
    Sha256 hash;
    for (size_t i = 0; i < text.size(); i += piece) hash.update(text.substr(i, piece));
    EXPECT_EQ(hash.hex(), sha256_hex(std::as_bytes(std::span(text)))) << piece;
  }
}

}  // namespace
}  // namespace calotype
