#include "cuda/fake_cuda.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "core/cat.h"
#include "cuda/check.h"
#include "cuda/kernels/kernels.h"

namespace {

constexpr unsigned char kUnwritten = 0xA5;

struct Books {
  std::recursive_mutex mutex;
  calotype::test::FakeCuda fake;
  std::map<void*, int64_t> blocks;
  std::map<const void*, size_t> pinned;
  int64_t handles = 0;
};

Books& books() {
  static Books all;
  return all;
}

bool is_pinned(const void* at) {
  const auto after = books().pinned.upper_bound(at);
  if (after == books().pinned.begin()) return false;
  const auto [block, size] = *std::prev(after);
  return at < static_cast<const char*>(block) + size;
}

template <class... Parts>
void note(const Parts&... parts) {
  const std::lock_guard<std::recursive_mutex> lock(books().mutex);
  books().fake.log.push_back(calotype::cat(parts...));
}

// Streams and events are numbers.
template <class Handle>
cudaError_t make(Handle* to) {
  const std::lock_guard<std::recursive_mutex> lock(books().mutex);
  *to = reinterpret_cast<Handle>(static_cast<intptr_t>(++books().handles));
  return cudaSuccess;
}
template <class Handle>
int64_t number(Handle handle) {
  return static_cast<int64_t>(reinterpret_cast<intptr_t>(handle));
}

}  // namespace

namespace calotype::test {

FakeCuda& new_fake_cuda() {
  Books& all = books();
  const int64_t used = all.fake.used;
  all.fake = {};
  all.fake.used = all.fake.peak = used;
  return all.fake;
}

}  // namespace calotype::test

extern "C" {
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "Fake GPU");
  properties->major = 9;
  properties->minor = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 132;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheFake"; }
const char* cudaGetErrorString(cudaError_t) { return "as the test says"; }

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** address, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool name = std::strcmp(symbol, "cuGetErrorName") == 0;
  *address = reinterpret_cast<void*>(+[](CUresult, const char** text) {
    *text = "invalid argument";
    return CUDA_SUCCESS;
  });
  *found = name ? cudaDriverEntryPointSymbolNotFound : cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** to, size_t size) {
  const std::lock_guard<std::recursive_mutex> lock(books().mutex);
  calotype::test::FakeCuda& fake = books().fake;
  const auto bytes = static_cast<int64_t>(size);
  if (fake.used + bytes > fake.total) return cudaErrorMemoryAllocation;
  *to = std::malloc(size);
  std::memset(*to, 0, size);
  books().blocks[*to] = bytes;
  fake.used += bytes;
  fake.peak = std::max(fake.peak, fake.used);
  return cudaSuccess;
}
cudaError_t cudaFree(void* block) {
  const std::lock_guard<std::recursive_mutex> lock(books().mutex);
  books().fake.used -= books().blocks.at(block);
  books().blocks.erase(block);
  std::free(block);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** to, size_t size) {
  *to = std::malloc(size);
  std::memset(*to, kUnwritten, size);
  const std::lock_guard<std::recursive_mutex> lock(books().mutex);
  books().pinned[*to] = size;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* block) {
  const std::lock_guard<std::recursive_mutex> lock(books().mutex);
  books().pinned.erase(block);
  std::free(block);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard<std::recursive_mutex> lock(books().mutex);
  *free = static_cast<size_t>(books().fake.total - books().fake.used);
  *total = static_cast<size_t>(books().fake.total);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  std::memcpy(to, from, size);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const std::lock_guard<std::recursive_mutex> lock(books().mutex);
  const bool up = kind == cudaMemcpyHostToDevice;
  note(up ? "up " : "down ", size, " ", number(stream));
  const auto* bytes = static_cast<const unsigned char*>(from);
  if (up && is_pinned(bytes)) {
    // One byte of that value may be a weight's that lay in the memory before.
    constexpr int kRun = 16;
    if (std::search_n(bytes, bytes + size, kRun, kUnwritten) != bytes + size) {
      books().fake.unwritten++;
    }
  }
  std::memcpy(to, from, size);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t) {
  std::memset(to, value, size);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return make(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  note("hold ", number(event), " ", number(stream));
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return make(event); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  note("record ", number(event), " ", number(stream));
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;
  return cudaSuccess;
}
}

namespace calotype::cuda {
namespace {

void launched(const char* name, const Machine& machine) {
  note(name, " ", number(machine.stream));
  if (books().fake.failing == name) check(cudaErrorLaunchFailure, "launch", name);
}

}  // namespace

void hopper_conv(const Conv&, const Machine& m) { launched("hopper_conv", m); }
void pack_fp8(const PackConv&, float*, const Machine& m) { launched("pack_fp8", m); }
void hopper_conv_out(const Conv&, const Machine& m) { launched("hopper_conv_out", m); }
void mma_conv(const Conv&, const Machine& m) { launched("mma_conv", m); }
void simt_conv(const Conv&, const Machine& m) { launched("simt_conv", m); }
void mma_product(const Product&, const Machine& m) { launched("mma_product", m); }
void simt_product(const Product&, const Machine& m) { launched("simt_product", m); }
void channel_moments(Element, const Pictures&, const Partials&, const Machine& m) {
  launched("channel_moments", m);
}
void finish_norm(const Partials&, int, int, const NormWeights&, float2*, int, const Machine& m) {
  launched("finish_norm", m);
}
void apply_norm(const ApplyNorm&, const Machine& m) { launched("apply_norm", m); }
void softmax(const Softmax&, const Machine& m) { launched("softmax", m); }
void hopper_attention(const BoundedAttention&, const Machine& m) {
  launched("hopper_attention", m);
}
void mma_attention(const BoundedAttention&, const Machine& m) { launched("mma_attention", m); }
void import_pictures(const Import&, const Machine& m) { launched("import_pictures", m); }
void pack_conv(const PackConv&, const Machine& m) { launched("pack_conv", m); }
void fold(const Fold&, const Machine& m) { launched("fold", m); }
void widen(const void*, DType, int64_t, float*, const Machine& m) { launched("widen", m); }

}  // namespace calotype::cuda
