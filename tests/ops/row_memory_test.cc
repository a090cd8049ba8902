#include "ops/row_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "support/random.h"

namespace calotype::test {
namespace {

constexpr int64_t kChunk = int64_t{64} << 10;

TEST(ChunkBytes, are_a_power_of_two_between_64_KiB_and_16_MiB) {
  for (const int64_t largest :
       {int64_t{1}, int64_t{1} << 20, int64_t{100'000'000}, int64_t{1} << 31, int64_t{1} << 40}) {
    const int64_t bytes = chunk_bytes_for(largest);
    EXPECT_TRUE(std::has_single_bit(static_cast<uint64_t>(bytes))) << bytes;
    EXPECT_GE(bytes, kChunk);
    EXPECT_LE(bytes, int64_t{16} << 20);
  }
}

// Whatever the rows, what is alive holds them all and little else.
TEST(RowChunks, hold_the_rows_that_are_alive) {
  Random random(1);
  for (int round = 0; round < 200; round++) {
    const int64_t rows = random.integer(1, 50), row_bytes = random.integer(1, 3 * kChunk),
                  batch = random.integer(1, 3);
    RowChunks chunks(batch, rows, row_bytes, kChunk);
    int64_t first = 0, last = 0;
    while (last < rows) {
      last = random.integer(last + 1, rows);
      chunks.materialize(last);
      first = random.integer(first, std::min(last, rows - 1));
      chunks.release(first);
      const int64_t needed = (last * row_bytes + kChunk - 1) / kChunk - first * row_bytes / kChunk;
      ASSERT_EQ(chunks.alive(), needed * batch);
    }
    chunks.release(rows);
    ASSERT_EQ(chunks.alive(), 0);
    const auto again = chunks.materialize(1);  // made again from the top
    EXPECT_EQ(again.first, 0);
    EXPECT_GT(again.second, 0);
  }
}

TEST(AddressRange, moves_with_its_memory) {
  AddressRange a(3 * kChunk, kChunk);
  std::memset(a.data(), 7, static_cast<size_t>(3 * kChunk));
  std::byte* data = a.data();
  AddressRange b(std::move(a));
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(b.data()[3 * kChunk - 1], std::byte{7});
  AddressRange c;
  c = std::move(b);
  EXPECT_EQ(c.data(), data);
}

// Chunks come and go in any order, those that died among them; what is alive keeps its bytes.
TEST(RowMemory, never_takes_memory_that_is_alive) {
  constexpr int64_t kChunks = 24;
  Random random(test_seed(1));
  AddressRange range(kChunks * kChunk, kChunk);
  RowMemory memory(kChunk);
  std::map<int64_t, uint8_t> alive;
  const auto chunk = [&](int64_t i) { return range.data() + i * kChunk; };
  for (int step = 0; step < 3000; step++) {
    const int64_t i = random.integer(0, kChunks - 1);
    if (alive.contains(i)) {
      alive.erase(i);
      memory.take_back(chunk(i));
    } else {
      memory.deal(chunk(i));
      const auto mark = static_cast<uint8_t>(random.integer(1, 255));
      std::memset(chunk(i), mark, static_cast<size_t>(kChunk));
      alive[i] = mark;
    }
    if (step % 500 == 499) memory.trim(0);
    for (const auto& [j, mark] : alive) {
      ASSERT_EQ(static_cast<uint8_t>(chunk(j)[0]), mark) << "step " << step << ", chunk " << j;
      ASSERT_EQ(static_cast<uint8_t>(chunk(j)[kChunk - 1]), mark) << "step " << step;
    }
  }
}

// What one job leaves, the next one begins with: all that is dealt is writable and its own.
TEST(RowMemory, begins_with_what_was_kept) {
  for (const int64_t chunk : {kChunk, kHugePage}) {
    KeptPages kept;
    {
      AddressRange range(4 * chunk, chunk);
      RowMemory memory(chunk);
      for (int64_t i = 0; i < 4; i++) {
        memory.deal(range.data() + i * chunk);
        range.data()[i * chunk] = std::byte{1};
      }
      for (int64_t i = 0; i < 4; i++) memory.take_back(range.data() + i * chunk);
      kept = memory.keep(3 * chunk + 1);
      EXPECT_EQ(memory.held_bytes(), 0);
    }
    EXPECT_EQ(kept.bytes, 3 * chunk);
    AddressRange range(6 * chunk, chunk);
    RowMemory memory(2 * chunk, std::move(kept));  // a chunk of twice the size, and half of one
    EXPECT_EQ(memory.held_bytes(), 2 * chunk);
    for (int64_t i = 0; i < 3; i++) memory.deal(range.data() + 2 * i * chunk);
    EXPECT_EQ(memory.held_bytes(), 6 * chunk);
    std::memset(range.data(), 7, static_cast<size_t>(6 * chunk));
    for (int64_t i = 0; i < 6; i++) EXPECT_EQ(range.data()[i * chunk], std::byte{7});
  }
}

// Huge pages do not become small ones, of which a part could be let go.
TEST(RowMemory, keeps_huge_pages_apart_from_small_ones) {
  AddressRange range(kHugePage, kHugePage);
  RowMemory memory(kHugePage);
  memory.deal(range.data());
  memory.take_back(range.data());
  EXPECT_EQ(RowMemory(kChunk, memory.keep(kHugePage)).held_bytes(), 0);
}

}  // namespace
}  // namespace calotype::test
