#include "calotype/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "support/errors.h"

namespace calotype {
namespace {

using test::sentence_of;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(Shape, is_written_as_a_list) {
  EXPECT_EQ(shape_string({}), "[]");
  EXPECT_EQ(shape_string({1, 64, 64, 16}), "[1, 64, 64, 16]");
}

TEST(Shape, counts_elements) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({2, 3, 5}), 30);
  EXPECT_EQ(element_count({2, 0, 5}), 0);
  EXPECT_EQ(element_count({int64_t{1} << 31, int64_t{1} << 31}), int64_t{1} << 62);
}

TEST(Shape, refuses_negative_sides_and_products_that_overflow) {
  EXPECT_THAT(sentence_of(
                  [] {
                    element_count({2, -1});
                  },
                  ErrorCode::kInvalidData),
              HasSubstr("[2, -1]"));
  EXPECT_THAT(sentence_of(
                  [] {
                    element_count({int64_t{1} << 32, int64_t{1} << 31});
                  },
                  ErrorCode::kInvalidData),
              HasSubstr("2^62"));
  // A zero hides no overflow of the others.
  sentence_of(
      [] {
        element_count({int64_t{1} << 40, int64_t{1} << 40, 0});
      },
      ErrorCode::kInvalidData);
  sentence_of([] { element_count({0, -1}); }, ErrorCode::kInvalidData);
}

TEST(Shape, counts_bytes) {
  EXPECT_EQ(byte_count(DType::kF64, {3}), 24);
  EXPECT_EQ(byte_count(DType::kF32, {2, 3}), 24);
  EXPECT_EQ(byte_count(DType::kBF16, {5}), 10);
  EXPECT_EQ(byte_count(DType::kF8E4M3, {5}), 5);
  EXPECT_EQ(byte_count(DType::kBool, {0}), 0);
  EXPECT_EQ(byte_count(DType::kQ8_0, {2, 64}), 4 * 34);
  sentence_of([] { byte_count(DType::kF64, {int64_t{1} << 61}); }, ErrorCode::kInvalidData);
  EXPECT_THAT(sentence_of(
                  [] {
                    byte_count(DType::kQ8_0, {3, 11});
                  },
                  ErrorCode::kInvalidData),
              HasSubstr("multiple of 32"));
}

TEST(Tensor, is_aligned_for_the_widest_vectors) {
  for (const int64_t n : {0, 1, 17, 1000}) {
    const Tensor tensor({n});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data()) % 64, 0u);
    EXPECT_EQ(tensor.size(), n);
  }
}

TEST(Tensor, takes_as_many_values_as_its_shape_has) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const Tensor tensor({2, 3}, values);
  EXPECT_THAT(tensor.values(), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(tensor.dim(1), 3);
  EXPECT_THAT(sentence_of(
                  [&] {
                    Tensor({2, 2}, values);
                  },
                  ErrorCode::kInvalidArgument),
              HasSubstr("[2, 2]"));
}

TEST(Tensor, clones_deeply) {
  const std::vector<float> values = {1, 2};
  const Tensor tensor({2}, values);
  Tensor copy = tensor.clone();
  copy.data()[0] = 9;
  EXPECT_THAT(tensor.values(), ElementsAre(1, 2));
  EXPECT_THAT(copy.values(), ElementsAre(9, 2));
}

TEST(Tensor, borrows_without_a_copy_and_keeps_the_owner) {
  auto owner = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3});
  const std::weak_ptr<std::vector<float>> watch = owner;
  const float* data = owner->data();
  {
    const Tensor tensor = Tensor::borrow({3}, data, std::move(owner));
    EXPECT_EQ(tensor.data(), data);
    EXPECT_FALSE(watch.expired());
    EXPECT_THAT(tensor.values(), ElementsAre(1, 2, 3));
  }
  EXPECT_TRUE(watch.expired());
}

TEST(Tensor, refuses_more_than_the_machine_has) {
  sentence_of([] { Tensor({int64_t{1} << 45, 4}); }, ErrorCode::kOutOfMemory);
}

TEST(Layout, turns_nchw_into_nhwc_and_back) {
  const std::vector<float> values = {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15};
  const Tensor nchw({1, 2, 2, 3}, values);
  const Tensor nhwc = nchw_to_nhwc(nchw);
  EXPECT_EQ(nhwc.shape(), (Shape{1, 2, 3, 2}));
  EXPECT_THAT(nhwc.values(), ElementsAre(0, 10, 1, 11, 2, 12, 3, 13, 4, 14, 5, 15));
  const Tensor back = nhwc_to_nchw(nhwc);
  EXPECT_EQ(back.shape(), nchw.shape());
  EXPECT_TRUE(std::ranges::equal(back.values(), nchw.values()));
}

TEST(Layout, keeps_the_pictures_of_a_batch_apart) {
  Tensor nchw({3, 2, 1, 2});
  for (int64_t i = 0; i < nchw.size(); i++) nchw.data()[i] = static_cast<float>(i);
  EXPECT_THAT(nchw_to_nhwc(nchw).values(), ElementsAre(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11));
}

TEST(Layout, refuses_other_ranks) {
  EXPECT_THAT(sentence_of(
                  [] {
                    nchw_to_nhwc(Tensor({2, 3, 4}));
                  },
                  ErrorCode::kInvalidArgument),
              HasSubstr("[2, 3, 4]"));
  sentence_of([] { nhwc_to_nchw(Tensor({2})); }, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace calotype
