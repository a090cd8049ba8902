// The instructions of sm_90a that C++ has no names for: barriers of shared memory, TMA, wgmma.
// PTX ISA 8.x, sections "mbarrier", "cp.async.bulk.tensor" and "wgmma".
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/kernels/element.cuh"

namespace calotype::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- mbarrier: `parity` is the phase waited for, flipping each time that the barrier completes.

__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void barrier_fence_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nwait_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra end_%=;\nbra wait_%=;\nend_%=:\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// The same for waits of microseconds: polling takes bandwidth of shared memory, which the
// multiplying warps have no spare of. May notice up to `nanoseconds` late.
__device__ __forceinline__ void barrier_wait_asleep(uint32_t barrier, uint32_t parity,
                                                    unsigned nanoseconds) {
  for (;;) {
    uint32_t done;
    asm volatile(
        "{\n.reg .pred done;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    if (done != 0) return;
    __nanosleep(nanoseconds);
  }
}

// --- a cluster of two blocks

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// All threads of the cluster.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// Where the same place of block `rank` is.
__device__ __forceinline__ uint32_t of_block(uint32_t address, uint32_t rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
__device__ __forceinline__ void store_remote(uint32_t to, float4 v) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v.x), "f"(v.y),
               "f"(v.z), "f"(v.w)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive_remote(uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier)
               : "memory");
}
// Of a barrier of this block that the other one arrives at.
__device__ __forceinline__ void barrier_wait_cluster(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nwait_%=:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@done bra end_%=;\nbra wait_%=;\nend_%=:\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// A barrier of some of the block's warps, by number (0 is __syncthreads).
__device__ __forceinline__ void named_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
// Makes this thread's writes to shared memory visible to TMA and wgmma.
__device__ __forceinline__ void fence_to_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A place in a ring of `kSize` stages and the parity that its barriers are to be waited for with.
template <int kSize>
struct Ring {
  int stage = 0;
  uint32_t parity;
  __device__ explicit Ring(uint32_t first) : parity(first) {}
  __device__ __forceinline__ void next() {
    if (++stage == kSize) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// --- TMA

__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ __forceinline__ void tma_load(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                         int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1)
      : "memory");
}
__device__ __forceinline__ void tma_load(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                         int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5, %6}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ __forceinline__ void tma_load(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                         int c0, int c1, int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5, %6, %7}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
__device__ __forceinline__ void tma_store(uint32_t from, const CUtensorMap* map, int c0, int c1,
                                          int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%1, {%2, %3, %4, %5}], [%0];" ::"r"(
          from),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ __forceinline__ void tma_store(uint32_t from, const CUtensorMap* map, int c0, int c1,
                                          int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%1, {%2, %3, %4, %5, %6}], [%0];" ::
          "r"(from),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
__device__ __forceinline__ void tma_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until this thread's stores have read their shared memory.
__device__ __forceinline__ void tma_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
// Until they are done.
__device__ __forceinline__ void tma_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// --- wgmma: d[64][N] += a[64][16] b[N][16]^T, both in shared memory, rows of 64 channels = 128
// bytes, swizzled by 128.

// A descriptor is two words: where the matrix starts, and how it lies: `row_group` is the distance
// in bytes between groups of eight rows. Kept apart, so that moving along takes one 32-bit
// addition.
__device__ __forceinline__ uint32_t descriptor_start(uint32_t address) {
  constexpr uint32_t kLeading = 1u << 16;  // unused by this swizzle
  return ((address & 0x3ffff) >> 4) | kLeading;
}
__host__ __device__ constexpr uint32_t descriptor_form(uint32_t row_group) {
  constexpr uint32_t kSwizzle128 = 1u << 30;
  return (row_group >> 4) | kSwizzle128;
}
// Of rows of 64 bytes, swizzled by 64.
__host__ __device__ constexpr uint32_t descriptor_form64(uint32_t row_group) {
  constexpr uint32_t kSwizzle64 = 2u << 30;
  return (row_group >> 4) | kSwizzle64;
}
__device__ __forceinline__ uint64_t descriptor(uint32_t start, uint32_t form) {
  uint64_t d;
  asm("mov.b64 %0, {%1, %2};" : "=l"(d) : "r"(start), "r"(form));
  return d;
}
// Sixteen channels further, or 32 of one byte.
inline constexpr uint32_t kDescriptorStep = 32 >> 4;

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define CALOTYPE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CALOTYPE_D16(i) CALOTYPE_D4(i), CALOTYPE_D4(i + 4), CALOTYPE_D4(i + 8), CALOTYPE_D4(i + 12)

#define CALOTYPE_WGMMA_8(type)                                   \
  asm volatile(                                                  \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %6, 0;\n"            \
      "wgmma.mma_async.sync.aligned.m64n8k16.f32." type "." type \
      " {%0,%1,%2,%3}, %4, %5, add, 1, 1, 0, 0;\n}\n"            \
      : CALOTYPE_D4(0)                                           \
      : "l"(a), "l"(b), "r"(add))
#define CALOTYPE_WGMMA_32(type)                                                                   \
  asm volatile(                                                                                   \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %18, 0;\n"                                            \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type                                 \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, add, 1, 1, 0, 0;\n}\n" \
      : CALOTYPE_D16(0)                                                                           \
      : "l"(a), "l"(b), "r"(add))
#define CALOTYPE_WGMMA_128(type)                                              \
  asm volatile(                                                               \
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"                        \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type            \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"              \
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"      \
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"      \
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "    \
      "%64, %65, add, 1, 1, 0, 0;\n}\n"                                       \
      : CALOTYPE_D16(0), CALOTYPE_D16(16), CALOTYPE_D16(32), CALOTYPE_D16(48) \
      : "l"(a), "l"(b), "r"(add))

// `add` 0 overwrites d.
template <class T, int kColumns>
__device__ __forceinline__ void wgmma(float (&d)[kColumns / 2], uint64_t a, uint64_t b, int add) {
  constexpr bool kIsBf16 = sizeof(T) == 2 && !__is_same(T, f16);
  if constexpr (kColumns == 8) {
    if constexpr (kIsBf16) {
      CALOTYPE_WGMMA_8("bf16");
    } else {
      CALOTYPE_WGMMA_8("f16");
    }
  } else if constexpr (kColumns == 32) {
    if constexpr (kIsBf16) {
      CALOTYPE_WGMMA_32("bf16");
    } else {
      CALOTYPE_WGMMA_32("f16");
    }
  } else {
    static_assert(kColumns == 128);
    if constexpr (kIsBf16) {
      CALOTYPE_WGMMA_128("bf16");
    } else {
      CALOTYPE_WGMMA_128("f16");
    }
  }
}

// d[64][128] += a[64][32] b[128][32]^T of e4m3.
template <int kSums>
__device__ __forceinline__ void wgmma_fp8(float (&d)[kSums], uint64_t a, uint64_t b, int add) {
  static_assert(kSums == 64);
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3"
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
      "%64, %65, add, 1, 1;\n}\n"
      : CALOTYPE_D16(0), CALOTYPE_D16(16), CALOTYPE_D16(32), CALOTYPE_D16(48)
      : "l"(a), "l"(b), "r"(add));
}
#undef CALOTYPE_WGMMA_8
#undef CALOTYPE_WGMMA_32
#undef CALOTYPE_WGMMA_128
#undef CALOTYPE_D16
#undef CALOTYPE_D4

// --- register budgets of warpgroups

template <int kRegisters>
__device__ __forceinline__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace calotype::cuda
