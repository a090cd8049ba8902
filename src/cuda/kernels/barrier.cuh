// Barriers of shared memory, sm_80 and later. PTX ISA, "mbarrier": `parity` is the phase waited
// for, flipping each time that the barrier completes.
#pragma once

#include <cstdint>

namespace calotype::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}\n" ::"r"(barrier)
               : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
#define CALOTYPE_TRY_WAIT "mbarrier.try_wait.parity.shared.b64"  // may sleep meanwhile
#else
#define CALOTYPE_TRY_WAIT "mbarrier.test_wait.parity.shared.b64"
#endif
  asm volatile("{\n.reg .pred done;\nwait_%=:\n" CALOTYPE_TRY_WAIT
               " done, [%0], %1;\n"
               "@done bra end_%=;\nbra wait_%=;\nend_%=:\n}\n" ::"r"(barrier),
               "r"(parity)
               : "memory");
#undef CALOTYPE_TRY_WAIT
}
// A barrier of some of the block's warps, by number (0 is __syncthreads).
__device__ __forceinline__ void named_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

}  // namespace calotype::cuda
