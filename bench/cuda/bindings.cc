// The CUDA backend with C linkage, for bench/peers_cuda.py: device pointers in and out, on a given
// stream.
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "calotype/error.h"
#include "core/cat.h"
#include "cuda/loader.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"

namespace {

using namespace calotype;  // NOLINT: a program of one file

struct Network {
  Model model;
  std::unique_ptr<ModelTensors> tensors;
  std::unique_ptr<Encoder> encoder;
  std::unique_ptr<Decoder> decoder;
  std::shared_ptr<DeviceSession> session;
  std::string text;  // of the last answer
  std::map<std::tuple<bool, int64_t, int64_t>, Graph> graphs;

  const Graph& graph(bool encode, int64_t h, int64_t w) {
    const auto key = std::make_tuple(encode, h, w);
    const auto found = graphs.find(key);
    if (found != graphs.end()) return found->second;
    return graphs.emplace(key, encode ? encoder->graph(h, w) : decoder->graph(h, w)).first->second;
  }
};

thread_local std::string last_error;

template <class Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
    return 1;
  }
}

DType dtype_of(int code) {
  constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kU8};
  return kTypes[code];
}

}  // namespace

extern "C" {

// dtype: 0 f32, 1 bf16, 2 f16, 3 u8. strides: b, y, x, c in elements.
struct BenchArray {
  void* data;
  int dtype, on_device;
  int64_t strides[4];
};

__attribute__((visibility("default"))) const char* bench_error() { return last_error.c_str(); }

__attribute__((visibility("default"))) void* bench_new(const char* config_json) {
  auto network = std::make_unique<Network>();
  const int failed = guarded(
      [&] { network->model.config = AutoencoderKLConfig::from_json(config_json, "config.json"); });
  return failed != 0 ? nullptr : network.release();
}

// The bytes stay the caller's.
__attribute__((visibility("default"))) void bench_add(void* handle, const char* name, int dtype,
                                                      int rank, const int64_t* shape,
                                                      const void* data) {
  static_cast<Network*>(handle)->model.tensors[name] = {dtype_of(dtype), Shape(shape, shape + rank),
                                                        static_cast<const std::byte*>(data)};
}

// precision: 0 auto, 1 f32, 2 bf16, 3 f16, 4 fp8.
__attribute__((visibility("default"))) int bench_open(void* handle, int precision, int device) {
  return guarded([&] {
    auto& network = *static_cast<Network*>(handle);
    constexpr Precision kPrecisions[] = {Precision::kAuto, Precision::kF32, Precision::kBF16,
                                         Precision::kF16, Precision::kFP8};
    network.tensors = std::make_unique<ModelTensors>(network.model);
    const AutoencoderKLConfig& config = network.model.config;
    if (network.model.tensors.contains("encoder.conv_in.weight")) {
      network.encoder = std::make_unique<Encoder>(*network.tensors, config);
    }
    if (network.model.tensors.contains("decoder.conv_in.weight")) {
      network.decoder = std::make_unique<Decoder>(*network.tensors, config);
    }
    network.session = cuda_backend().open({device, kPrecisions[precision]});
  });
}

__attribute__((visibility("default"))) void bench_close(void* handle) {
  const std::unique_ptr<Network> network(static_cast<Network*>(handle));
}

__attribute__((visibility("default"))) const char* bench_description(void* handle) {
  auto& network = *static_cast<Network*>(handle);
  network.text = network.session->description();
  return network.text.c_str();
}

// h, w: of the graph's input.
__attribute__((visibility("default"))) int bench_run(void* handle, int encode, int64_t n, int64_t h,
                                                     int64_t w, const BenchArray* input,
                                                     const BenchArray* output, void* stream,
                                                     int64_t memory) {
  return guarded([&] {
    auto& network = *static_cast<Network*>(handle);
    const Graph& graph = network.graph(encode != 0, h, w);
    const auto array = [](const BenchArray& a) {
      DeviceArray to;
      to.data = a.data;
      to.dtype = dtype_of(a.dtype);
      to.on_device = a.on_device != 0;
      std::copy(a.strides, a.strides + 4, to.strides.begin());
      return to;
    };
    DeviceCall call;
    call.graph = &graph;
    call.batch = n;
    call.input = array(*input);
    call.output = array(*output);
    call.stream = stream;
    call.memory = memory;
    network.session->run(call);
  });
}

__attribute__((visibility("default"))) int64_t bench_bytes(void* handle, int encode, int64_t n,
                                                           int64_t h, int64_t w, int64_t memory) {
  int64_t bytes = -1;
  guarded([&] {
    auto& network = *static_cast<Network*>(handle);
    bytes = network.session->plan(network.graph(encode != 0, h, w), n, memory).peak_bytes;
  });
  return bytes;
}

// One line a layer: name, algorithm, seconds, FLOP of the direct algorithm, FLOP computed, bytes.
__attribute__((visibility("default"))) const char* bench_layers(void* handle, int encode, int64_t n,
                                                                int64_t h, int64_t w,
                                                                const BenchArray* input,
                                                                const BenchArray* output) {
  auto& network = *static_cast<Network*>(handle);
  network.text.clear();
  const int failed = guarded([&] {
    const Graph& graph = network.graph(encode != 0, h, w);
    std::vector<LayerReport> layers;
    DeviceCall call;
    call.graph = &graph;
    call.batch = n;
    call.input = {input->data, dtype_of(input->dtype), {}, true};
    call.output = {output->data, dtype_of(output->dtype), {}, true};
    std::copy(input->strides, input->strides + 4, call.input.strides.begin());
    std::copy(output->strides, output->strides + 4, call.output.strides.begin());
    call.layers = &layers;
    network.session->run(call);
    for (const LayerReport& layer : layers) {
      network.text += cat(layer.name, '\t', layer.algorithm, '\t', layer.seconds, '\t', layer.flop,
                          '\t', layer.flop_executed, '\t', layer.bytes, '\n');
    }
  });
  return failed != 0 ? nullptr : network.text.c_str();
}

}  // extern "C"
