// Convolutions by strips of rows.
//
// What device memory does not hold comes from pinned host memory, or is computed again for the
// strip from what is there. Strip s is uploaded while s - 1 is computed and s - 2 downloaded; of
// what comes or goes there are two buffers. An operation begins when all before it is done,
// downloads included, and ends when its own are: so whatever comes next may use the memory.
#include "core/cat.h"
#include "cuda/planner.h"
#include "cuda/runner.h"

namespace calotype::cuda {

// Strip s of an operation: which rows of each activation, and where they are, if not as a whole.
struct Runner::Strip {
  int number = 0;
  size_t turn = 0;  // of two buffers
  std::vector<Rows> rows;
  std::vector<Place> places;

  Rows of(Activation a) const { return rows[static_cast<size_t>(a.id)]; }
  const Place& place(Activation a) const { return places[static_cast<size_t>(a.id)]; }
};

Runner::Strip Runner::strip_of(const StripPlan& plan, int s) const {
  const Activation y = output_of(graph_.nodes()[plan.nodes.back()]);
  const int height = static_cast<int>(graph_.extent(y).h);
  Strip strip;
  strip.number = s;
  strip.turn = static_cast<size_t>(s % 2);
  strip.rows = rows_needed(graph_, plan_.nodes, plan.nodes,
                           {s * plan.rows, std::min(height, (s + 1) * plan.rows)});
  strip.places.resize(strip.rows.size());
  for (const StripBuffer& buffer : plan.buffers) {
    const Place& place = buffer.places[strip.turn];
    strip.places[static_cast<size_t>(buffer.a.id)] = place;
    const Pictures p = pictures(buffer.a);
    const int64_t row = planes_of(p) * p.w * p.stride * element_bytes();
    if (buffer.a.id != graph_.output().id && strip.of(buffer.a).count() * row > place.bytes) {
      fail(ErrorCode::kInternal, "a strip of ", strip.of(buffer.a).count(), " rows has memory of ",
           place.bytes, " bytes");
    }
  }
  return strip;
}

void Runner::conv_by_strips(size_t i) {
  const StripPlan& plan = *plan_.nodes[i].strips;
  const Activation y = output_of(graph_.nodes()[i]);
  const bool goes_up = plan.up_bytes > 0, goes_down = plan.down_bytes > 0;
  StripLine& line = *run_.line;
  std::vector<Affine> affines;
  for (size_t k = 0; k < plan.nodes.size(); k++) {
    const ConvNode& node = std::get<ConvNode>(graph_.nodes()[plan.nodes[k]]);
    affines.emplace_back();
    if (!node.norm) continue;
    affines.back() = affine(node.x, run_.weights->node(plan.nodes[k]).norm, plan.affines[k]);
  }
  if (goes_up) {
    line.begun.record(machine_.stream);
    line.begun.hold(line.up);
  }
  for (int s = 0; s < plan.count; s++) {
    const Strip strip = strip_of(plan, s);
    const bool again = s >= 2;
    if (goes_up) {
      if (again) line.computed[strip.turn].hold(line.up);
      upload(plan, strip);
      line.uploaded[strip.turn].record(line.up);
      line.uploaded[strip.turn].hold(machine_.stream);
    }
    if (goes_down && again) line.downloaded[strip.turn].hold(machine_.stream);
    import_strip(plan, strip);
    for (size_t k = 0; k < plan.nodes.size(); k++) {
      conv_of_strip(plan.nodes[k], strip, affines[k], plan.nodes[k] == i ? &plan : nullptr);
    }
    if (goes_up || goes_down) line.computed[strip.turn].record(machine_.stream);
    if (goes_down) {
      line.computed[strip.turn].hold(line.down);
      download(y, strip);
      line.downloaded[strip.turn].record(line.down);
    }
  }
  if (goes_down) {
    line.drained.record(line.down);
    line.drained.hold(machine_.stream);
  }
}

// One operation on a strip. Statistics are of the operation that the strips are of, the last.
void Runner::conv_of_strip(size_t i, const Strip& strip, const Affine& affine,
                           const StripPlan* last) {
  const ConvNode& node = std::get<ConvNode>(graph_.nodes()[i]);
  const ConvPlan& plan = plan_.nodes[i].conv;
  const Rows y = strip.of(node.y);
  const Rows x = input_rows(plan.mode, y, static_cast<int>(graph_.extent(node.x).h));
  Conv call = described(plan, run_.weights->node(i).conv);
  call.affine = affine;
  call.x = rows_of(node.x, x, strip);
  call.rows_above = rows_above(plan.mode, y, x);
  if (node.residual) {
    (node.shortcut ? call.shortcut : call.residual) = rows_of(*node.residual, y, strip);
  }
  call.y = rows_of(node.y, y, strip);
  if (node.y.id == graph_.output().id) {
    call.y.data = nullptr;
    call.store = store_of(node.y, strip);
  }
  const bool wants_stats = last != nullptr && graph_.stats_groups(node.y) > 0;
  const Partials stats = wants_stats ? partials_of(node.y, *last, strip.number) : Partials();
  if (at(node.y).fused) call.stats = stats;
  launch(call, plan.path);
  if (wants_stats && !at(node.y).fused) {
    channel_moments(run_.element, call.y, stats, machine_);
  }
}

void Runner::copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind,
                        kind == cudaMemcpyHostToDevice ? run_.line->up : run_.line->down),
        "cudaMemcpyAsync", "a strip");
}

void Runner::upload(const StripPlan& plan, const Strip& strip) {
  const Activation y = output_of(graph_.nodes()[plan.nodes.back()]);
  for (const StripBuffer& buffer : plan.buffers) {
    const Activation a = buffer.a;
    if (at(a).home != Home::kHost || a.id == y.id) continue;
    const Rows rows = strip.of(a);
    if (a.id == graph_.input().id) {
      if (run_.input.on_device) continue;
      const Extent e = graph_.extent(a);
      const int64_t row = e.w * e.c * byte_count(run_.input.dtype, {1});
      copy(memory(plan.raw[strip.turn]),
           static_cast<const char*>(run_.input.data) + rows.first * row, rows.count() * row,
           cudaMemcpyHostToDevice);
      continue;
    }
    const Pictures p = pictures(a);
    const int64_t row = p.w * p.stride * element_bytes();
    const char* from = static_cast<const char*>(run_.host) + at(a).place.offset;
    char* to = memory<char>(strip.place(a));
    for (int64_t plane = 0; plane < planes_of(p); plane++) {  // one after the other in a strip
      copy(to + plane * rows.count() * row, from + (plane * p.h + rows.first) * row,
           rows.count() * row, cudaMemcpyHostToDevice);
    }
  }
}

void Runner::download(Activation a, const Strip& strip) {
  const Pictures p = pictures(a);
  const Rows rows = strip.of(a);
  const char* from = memory<char>(strip.place(a));
  if (a.id == graph_.output().id) {
    if (run_.output.on_device) return;
    const int64_t row = int64_t{p.w} * p.c * byte_count(run_.output.dtype, {1});
    copy(static_cast<char*>(run_.output.data) + rows.first * row, from, rows.count() * row,
         cudaMemcpyDeviceToHost);
    return;
  }
  const int64_t row = p.w * p.stride * element_bytes();
  char* to = static_cast<char*>(run_.host) + at(a).place.offset;
  for (int64_t plane = 0; plane < planes_of(p); plane++) {
    copy(to + (plane * p.h + rows.first) * row, from + plane * rows.count() * row,
         rows.count() * row, cudaMemcpyDeviceToHost);
  }
}

// The graph's input, where it comes by strips.
void Runner::import_strip(const StripPlan& plan, const Strip& strip) {
  const Activation a = graph_.input();
  const Rows rows = strip.of(a);
  if (at(a).home != Home::kHost || rows.count() == 0) return;
  DeviceArray from = run_.input;
  if (!from.on_device) {
    const Extent e = graph_.extent(a);
    from.data = memory(plan.raw[strip.turn]);
    from.strides = nhwc_strides(rows.count(), e.w, e.c);
  } else {
    from.data =
        static_cast<char*>(from.data) + rows.first * from.strides[1] * byte_count(from.dtype, {1});
  }
  import(from, rows_of(a, rows, strip));
}

// Rows of an activation, from where it lies or from the strip.
Pictures Runner::rows_of(Activation a, Rows rows, const Strip& strip) const {
  Pictures p = pictures(a);
  const bool whole = at(a).home == Home::kDevice;
  const Rows there = whole ? Rows{0, p.h} : strip.of(a);
  if (!whole) p.data = memory(strip.place(a));
  p.plane = int64_t{there.count()} * p.w;
  p.data = static_cast<char*>(p.data) +
           int64_t{rows.first - there.first} * p.w * p.stride * element_bytes();
  p.h = rows.count();
  return p;
}

Store Runner::store_of(Activation a, const Strip& strip) const {
  const Extent e = graph_.extent(a);
  const Rows rows = strip.of(a);
  const DeviceArray& to = run_.output;
  if (!to.on_device) {
    return {memory(strip.place(a)), to.dtype, nhwc_strides(rows.count(), e.w, e.c)};
  }
  char* first =
      static_cast<char*>(to.data) + rows.first * to.strides[1] * byte_count(to.dtype, {1});
  return {first, to.dtype, to.strides};
}

Partials Runner::partials_of(Activation a, const StripPlan& plan, int s) const {
  Partials part = partials(a);
  part.data += int64_t{s} * plan.slots;
  part.slots = s + 1 < plan.count ? plan.slots : part.slots - s * plan.slots;
  return part;
}

}  // namespace calotype::cuda
