// Convolutions by strips of rows: what does not fit the device's memory is in pinned host memory.
//
// Strip s is uploaded while s - 1 is computed and s - 2 downloaded; there are two of each buffer.
// An operation begins when all before it is done, downloads included, and ends when its own are: so
// whatever comes next may use the memory, and the strips of one operation are the only ones in use.
#include "core/cat.h"
#include "cuda/runner.h"

namespace calotype::cuda {

void Runner::conv_by_strips(const ConvNode& node, size_t i) {
  const NodeWeights& weights = run_.weights->node(i);
  const ConvPlan& plan = plan_.nodes[i].conv;
  const StripPlan& strips = *plan_.nodes[i].strips;
  StripLine& line = *run_.line;
  const Extent in = graph_.extent(node.x), out = graph_.extent(node.y);
  const bool wants_stats = graph_.stats_groups(node.y) > 0, fused = at(node.y).fused;
  Conv call = described(plan, weights.conv);
  if (node.norm) call.affine = affine(node.x, weights.norm);
  line.begun.record(machine_.stream);
  line.begun.hold(line.up);
  for (int s = 0; s < strips.count; s++) {
    const auto k = static_cast<size_t>(s % 2);
    const Rows y = {s * strips.rows, std::min(static_cast<int>(out.h), (s + 1) * strips.rows)};
    const Rows x = input_rows(plan.mode, y, static_cast<int>(in.h));
    if (s >= 2) line.computed[k].hold(line.up);
    upload(node, strips, k, x, y);
    line.uploaded[k].record(line.up);
    line.uploaded[k].hold(machine_.stream);
    if (s >= 2) line.downloaded[k].hold(machine_.stream);

    if (is_streamed_input(node.x)) import_strip(node.x, x, strips, k);
    call.x = rows_of(node.x, x, strips.x[k]);
    call.rows_above = rows_above(plan.mode, y, x);
    if (node.residual) {
      (node.shortcut ? call.shortcut : call.residual) =
          rows_of(*node.residual, y, strips.residual[k]);
    }
    if (node.y.id == graph_.output().id) {
      call.store = store_of(node.y, y, strips.y[k]);
      call.y = pictures(node.y);
      call.y.h = y.count();
    } else {
      call.y = rows_of(node.y, y, strips.y[k]);
    }
    const Partials stats = wants_stats ? partials_of(node.y, strips, s) : Partials();
    if (fused) call.stats = stats;
    launch(call, plan.path);
    if (wants_stats && !fused) channel_moments(run_.element, call.y, stats, machine_);

    line.computed[k].record(machine_.stream);
    line.computed[k].hold(line.down);
    download(node.y, y, strips.y[k]);
    line.downloaded[k].record(line.down);
  }
  line.drained.record(line.down);
  line.drained.hold(machine_.stream);
}

void Runner::copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind,
                        kind == cudaMemcpyHostToDevice ? run_.line->up : run_.line->down),
        "cudaMemcpyAsync", "a strip");
}

void Runner::upload(const ConvNode& node, const StripPlan& strips, size_t k, Rows x, Rows y) {
  if (is_streamed_input(node.x)) {
    if (run_.input.on_device) return;
    const Extent e = graph_.extent(node.x);
    const int64_t row = e.w * e.c * byte_count(run_.input.dtype, {1});
    copy(memory(strips.raw[k]), static_cast<const char*>(run_.input.data) + x.first * row,
         x.count() * row, cudaMemcpyHostToDevice);
  } else {
    upload_rows(node.x, x, strips.x[k]);
  }
  if (node.residual) upload_rows(*node.residual, y, strips.residual[k]);
}

// A strip's planes lie one after the other.
void Runner::upload_rows(Activation a, Rows rows, const Place& strip) {
  if (!at(a).on_host) return;
  const Pictures p = pictures(a);
  const int64_t row = p.w * p.stride * element_bytes();
  const char* from = static_cast<const char*>(run_.host) + at(a).place.offset;
  for (int plane = 0; plane < (p.planar ? slabs_of(p.c) : 1); plane++) {
    copy(memory<char>(strip) + plane * rows.count() * row,
         from + (int64_t{plane} * p.h + rows.first) * row, rows.count() * row,
         cudaMemcpyHostToDevice);
  }
}

void Runner::download(Activation a, Rows rows, const Place& strip) {
  if (!at(a).on_host) return;
  const Pictures p = pictures(a);
  if (a.id == graph_.output().id) {
    if (run_.output.on_device) return;
    const int64_t row = int64_t{p.w} * p.c * byte_count(run_.output.dtype, {1});
    copy(static_cast<char*>(run_.output.data) + rows.first * row, memory(strip), rows.count() * row,
         cudaMemcpyDeviceToHost);
    return;
  }
  const int64_t row = p.w * p.stride * element_bytes();
  char* to = static_cast<char*>(run_.host) + at(a).place.offset;
  for (int plane = 0; plane < (p.planar ? slabs_of(p.c) : 1); plane++) {
    copy(to + (int64_t{plane} * p.h + rows.first) * row,
         memory<char>(strip) + plane * rows.count() * row, rows.count() * row,
         cudaMemcpyDeviceToHost);
  }
}

// The graph's input, of the rows as they were given.
void Runner::import_strip(Activation a, Rows rows, const StripPlan& strips, size_t k) {
  DeviceArray from = run_.input;
  if (!from.on_device) {
    const Extent e = graph_.extent(a);
    from.data = memory(strips.raw[k]);
    from.strides = nhwc_strides(rows.count(), e.w, e.c);
  } else {
    from.data =
        static_cast<char*>(from.data) + rows.first * from.strides[1] * byte_count(from.dtype, {1});
  }
  import(from, rows_of(a, rows, strips.x[k]));
}

// Rows of an activation: where they lie in device memory, or the strip that stands for them.
Pictures Runner::rows_of(Activation a, Rows rows, const Place& strip) const {
  Pictures p = pictures(a);
  if (at(a).on_host) {
    p.data = memory(strip);
  } else {
    p.data = static_cast<char*>(p.data) + rows.first * p.w * p.stride * element_bytes();
    p.plane = p.pixels();
  }
  p.h = rows.count();
  return p;
}

Store Runner::store_of(Activation a, Rows rows, const Place& strip) const {
  const Extent e = graph_.extent(a);
  const DeviceArray& to = run_.output;
  if (!to.on_device) return {memory(strip), to.dtype, nhwc_strides(rows.count(), e.w, e.c)};
  char* first =
      static_cast<char*>(to.data) + rows.first * to.strides[1] * byte_count(to.dtype, {1});
  return {first, to.dtype, to.strides};
}

Partials Runner::partials_of(Activation a, const StripPlan& strips, int s) const {
  Partials part = partials(a);
  part.data += int64_t{s} * strips.slots;
  part.slots = std::min(strips.slots, part.slots - s * strips.slots);
  return part;
}

}  // namespace calotype::cuda
