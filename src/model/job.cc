#include "model/job.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <optional>
#include <utility>

#include "core/cat.h"
#include "core/checked.h"
#include "cpu/cpu_ops.h"
#include "model/ledger.h"
#include "ops/executor.h"
#include "ops/kept_memory.h"
#include "ops/machine.h"
#include "ops/scratch.h"
#include "ops/speed.h"
#include "reference/reference_ops.h"

namespace calotype {
namespace {

// Pictures of more arithmetic than this go one after the other: each keeps all cores busy by
// itself, in less memory.
constexpr double kAloneFlop = 5e10;

using Clock = std::chrono::steady_clock;
// A plan is weighed in steps of microseconds; progress is to be called several times a second.
constexpr std::chrono::milliseconds kPlanningTick{20};

std::unique_ptr<Ops> make_ops(const RunOptions& options) {
  if (options.backend == Backend::kReference) return make_reference_ops(options.threads);
  const bool automatic = options.precision == Precision::kAuto;
  return make_cpu_ops(automatic ? Precision::kF32 : options.precision, options.threads);
}

}  // namespace

int64_t memory_asked_for(int64_t memory) {
  if (memory > 0) return memory;
  const char* wanted = std::getenv("CALOTYPE_MEMORY");
  return wanted != nullptr && *wanted != '\0' ? parse_memory_size(wanted) : 0;
}

Job::Job(const Graph& graph, const Model& model, int64_t batch, const RunOptions& options)
    : graph_(lower(graph)),
      network_(graph),
      model_(model),
      batch_(batch),
      options_(options),
      ops_(make_ops(options)) {}

// What several jobs of a process have in common: the program, and weights that live in the heap.
int64_t Job::shared_bytes() const {
  int64_t bytes = kProgramBytes;
  if (!model_.mapped) {
    for (const auto& [name, view] : model_.tensors)
      bytes = checked_add(bytes, byte_count(view.dtype, view.shape));
  }
  return bytes;
}

int64_t Job::tensor_bytes(Activation a) const {
  const Extent e = graph_.extent(a);
  const int64_t values = checked_mul(checked_mul(checked_mul(e.h, e.w), e.c), batch_);
  const int64_t wide = ops_->element() == DType::kF64 ? 8 : 0;  // the reference's own copies
  return checked_mul(values, 4 + wide);
}

// One picture's output has no memory before it is written; those of a batch are there one after the
// other, and the reference's copies from the beginning.
bool Job::output_comes_last() const { return batch_ == 1 && ops_->element() == DType::kF32; }

// What the budget counts besides the plan: what is shared, input and output, what the caller holds.
int64_t Job::base_bytes() const {
  const int64_t output = output_comes_last() ? 0 : tensor_bytes(graph_.output());
  return checked_add(checked_add(shared_bytes(), std::max<int64_t>(options_.held_bytes, 0)),
                     checked_add(tensor_bytes(graph_.input()), output));
}

int64_t Job::budget() const { return memory_budget(options_.memory); }

PlanOptions Job::plan_options(int64_t budget) const {
  const std::string folder = scratch_folder(options_.scratch);
  PlanOptions plan;
  plan.memory = budget;
  plan.may_spill = !is_memory_backed(folder);
  plan.mapped_weights = model_.mapped;
  if (output_comes_last()) plan.output_bytes = tensor_bytes(graph_.output());
  if (options_.backend == Backend::kReference) {
    // Plain loops; to measure them takes seconds.
    plan.speed.flop_per_second = 1e9 * ops_->threads();
  } else {
    plan.speed = machine_speed(*ops_, folder);
  }
  if (options_.progress) {
    plan.tick = [this, last = Clock::time_point()]() mutable {
      if (Clock::now() - last < kPlanningTick) return;
      last = Clock::now();
      if (!options_.progress({done_, "planning"}))
        fail(ErrorCode::kCancelled, "cancelled while the job was planned");
    };
  }
  return plan;
}

ExecutionPlan Job::plan_group(int64_t pictures, int64_t budget) const {
  const int64_t left = budget - base_bytes();
  PlanOptions options = plan_options(std::max<int64_t>(left, 1));
  ExecutionPlan plan;
  try {
    plan = plan_execution(graph_, *ops_, pictures, options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    const int64_t least =
        checked_add(base_bytes(), smallest_plan(graph_, *ops_, pictures, options).peak_bytes);
    const int threads = ops_->threads();
    fail(ErrorCode::kOutOfMemory, "a memory budget of ", budget,
         " bytes is too small for this picture; the smallest that works is ", least, " bytes",
         threads > 1 ? cat(" with ", threads, " threads, and less with fewer") : "");
  }
  return plan;
}

// How many pictures of the batch are computed together: all where that fits and is worth it.
int64_t Job::group(int64_t budget) const {
  double flop = 0;
  for (const Node& node : graph_.nodes()) flop += ops_->flop_executed(graph_, node);
  if (batch_ == 1 || flop > kAloneFlop) return 1;
  const int64_t left = budget - base_bytes();
  for (int64_t pictures = batch_; pictures > 1; pictures = (pictures + 1) / 2) {
    PlanOptions unbounded = plan_options(0);
    if (plan_execution(graph_, *ops_, pictures, unbounded).peak_bytes <= left) return pictures;
  }
  return 1;
}

Plan Job::plan() {
  const int64_t budget = this->budget(), group = this->group(budget);
  const ExecutionPlan chosen = plan_group(group, budget);
  Plan plan;
  for (const Node& node : network_.nodes())
    plan.flop += static_cast<double>(batch_) * flop_of(network_, node);
  const int64_t runs = (batch_ + group - 1) / group;
  const auto groups = static_cast<double>(runs);
  plan.flop_executed = groups * chosen.flop_executed;
  plan.flop_again = groups * chosen.flop_again;
  plan.spilled_bytes = runs * chosen.spilled_bytes;
  plan.seconds = groups * chosen.seconds;
  plan.memory_bytes = budget;
  plan.planned_peak_bytes = checked_add(base_bytes(), chosen.peak_bytes);
  plan.minimum_bytes = smallest_budget();
  return plan;
}

int64_t Job::smallest_budget() {
  return checked_add(base_bytes(), smallest_plan(graph_, *ops_, 1, plan_options(1)).peak_bytes);
}

Tensor Job::run(const Tensor& input) {
  const int64_t budget = this->budget();
  int64_t group = 1;
  ExecutionPlan chosen;
  const auto plan_in = [&](int64_t left) -> std::optional<int64_t> {
    try {
      group = this->group(left);
      chosen = plan_group(group, left);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kOutOfMemory || left >= budget) throw;
      return {};
    }
    return base_bytes() - shared_bytes() + chosen.peak_bytes;
  };
  const auto poll = [&] {
    if (options_.progress && !options_.progress({0, "waiting for memory"}))
      fail(ErrorCode::kCancelled, "cancelled while other jobs had the memory");
  };
  const auto reservation = MemoryLedger::shared().reserve(budget, plan_in, poll);
  const auto memory = KeptMemory::shared();
  Kept kept = memory->take();
  if (kept.ops == nullptr || kept.ops->name() != ops_->name()) kept.ops = make_ops(options_);
  std::swap(kept.ops, ops_);  // the one that has a workspace
  ExecuteOptions execution;
  execution.scratch_folder = scratch_folder(options_.scratch);
  execution.layers = options_.layers;
  execution.mapped_weights = model_.mapped;
  execution.kept = &kept.pages;
  execution.keep_bytes = KeptMemory::most(budget);
  Tensor output = run_groups(input, group, std::move(chosen), execution);
  std::swap(kept.ops, ops_);
  memory->give(std::move(kept));
  return output;
}

Tensor Job::run_groups(const Tensor& input, int64_t group, ExecutionPlan plan,
                       ExecuteOptions options) {
  const Extent in = graph_.extent(graph_.input()), out = graph_.extent(graph_.output());
  const int64_t reserved = base_bytes() + plan.peak_bytes;
  int64_t planned = group;
  Tensor output({batch_, out.h, out.w, out.c});
  for (int64_t first = 0; first < batch_; first += group) {
    const int64_t pictures = std::min(group, batch_ - first);
    done_ = static_cast<double>(first) / static_cast<double>(batch_);
    if (pictures != planned) plan = plan_group(pictures, reserved);  // the last, of fewer pictures
    planned = pictures;
    const int64_t in_size = in.h * in.w * in.c, out_size = out.h * out.w * out.c;
    const float* x = input.data() + first * in_size;
    float* y = output.data() + first * out_size;
    if (options_.progress) {
      options.progress = [&](const Progress& progress) {
        const double done =
            static_cast<double>(first) + progress.fraction * static_cast<double>(pictures);
        return options_.progress({done / static_cast<double>(batch_), progress.layer});
      };
    }
    if (ops_->element() == DType::kF32) {
      execute(graph_, *ops_, plan, pictures, x, y, options);
      continue;
    }
    const std::vector<double> wide_x(x, x + pictures * in_size);
    std::vector<double> wide_y(static_cast<size_t>(pictures * out_size));
    execute(graph_, *ops_, plan, pictures, wide_x.data(), wide_y.data(), options);
    std::transform(wide_y.begin(), wide_y.end(), y, [](double v) { return static_cast<float>(v); });
  }
  return output;
}

int64_t memory_budget(int64_t memory) {
  const int64_t wanted = memory_asked_for(memory);
  if (wanted > 0) return wanted;
  // What other jobs have taken of it is not free any more, but theirs to share.
  return MemoryLedger::shared().common_budget([] { return available_memory() / 4 * 3; });
}

int64_t parse_memory_size(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit = end;
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  if (unit.ends_with("IB"))
    unit.resize(unit.size() - 2);
  else if (unit.ends_with("B"))
    unit.resize(unit.size() - 1);
  constexpr std::string_view kUnits = "KMGT";
  double scale = 1;
  const bool known =
      unit.empty() || (unit.size() == 1 && kUnits.find(unit[0]) != std::string_view::npos);
  if (unit.size() == 1 && known)
    scale = static_cast<double>(int64_t{1} << (10 * (kUnits.find(unit[0]) + 1)));
  if (end == text.c_str() || !known || !(number > 0) || number * scale >= 0x1p62) {
    fail(ErrorCode::kInvalidArgument, "\"", text,
         "\" is no memory size; write 700M, 1.3G or a number of bytes");
  }
  return static_cast<int64_t>(number * scale);
}

}  // namespace calotype
