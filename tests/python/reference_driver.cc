// reference_driver MODEL INPUT OUTPUT: runs MODEL on the float64 reference, for the tests in
// Python.
//
// INPUT is a safetensors file of float64 arrays in NCHW. "z…" is decoded to "image…", "image…" is
// encoded to "moments…" (mean and log variance, not clamped). Nothing is rounded to float32.
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "calotype/model_source.h"
#include "model/decoder.h"
#include "model/encoder.h"
#include "model/tensor_source.h"
#include "support/arrays.h"
#include "support/plain_run.h"
#include "weights/safetensors.h"

namespace calotype::test {
namespace {

template <class Network>
Array run(const Network& network, const Array& nchw) {
  const Array x = nchw_to_nhwc(nchw);
  const Graph graph = network.graph(x.shape[1], x.shape[2]);
  const Extent y = graph.extent(graph.output());
  return nhwc_to_nchw({{x.shape[0], y.h, y.w, y.c}, run_reference(graph, x.shape[0], x.values)});
}

void run_file(const std::string& model_name, const std::string& in, const std::string& out) {
  const Model model = load_model(model_name);
  ModelTensors tensors(model);
  const Decoder decoder(tensors, model.config);
  const Encoder encoder(tensors, model.config);
  const ArrayFile file(in);
  std::map<std::string, Array> results;
  for (const auto& [name, view] : file.file().tensors) {
    if (name.starts_with("z")) {
      results["image" + name.substr(1)] = run(decoder, array_of(view));
    } else {
      results["moments" + name.substr(5)] = run(encoder, array_of(view));
    }
  }
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, array] : results) {
    const auto* data = reinterpret_cast<const std::byte*>(array.values.data());
    entries.push_back(SafetensorsEntry::of(name, {DType::kF64, array.shape, data}));
  }
  write_safetensors(out, {}, entries);
}

}  // namespace
}  // namespace calotype::test

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: reference_driver MODEL INPUT OUTPUT\n");
    return 2;
  }
  try {
    calotype::test::run_file(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
