// One job an input: those that cannot be read or done are reported and passed over, so that one bad
// file among a thousand does not cost the others.
#pragma once

#include <new>
#include <string>
#include <utility>
#include <vector>

#include "calotype/error.h"
#include "cli/report.h"

namespace calotype::cli {

// job(i, prepare(i)) -> Json of each input, collected in `results`. Errors go to standard error and
// into `results`; one of writing (no space left, …) or an interrupt would meet every other input
// too and ends it all. Returns the exit code: that of wrong usage where nothing else went wrong.
template <class Prepare, class Job>
int for_each_input(const std::vector<std::string>& inputs, const Prepare& prepare, const Job& job,
                   Json& results) {
  results = Json::array();
  int code = 0;
  const auto report = [&](size_t i, const std::string& sentence, int error_code) {
    print_error(sentence);
    results.push_back({{"input", inputs[i]}, {"error", sentence}});
    code = code == 0 || code == error_code ? error_code : kFailed;
  };
  for (size_t i = 0; i < inputs.size(); ++i) {
    bool prepared = false;
    try {
      auto content = prepare(i);
      prepared = true;
      results.push_back(job(i, std::move(content)));
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kCancelled) {
        print_error("interrupted");
        return kInterrupted;
      }
      report(i, error.what(), exit_code(error));
      if (prepared && error.code() == ErrorCode::kIo) break;
    } catch (const std::bad_alloc&) {
      report(i, kOutOfMemory, kFailed);
    }
  }
  return code;
}

// "decode a.safetensors", with " (2 of 5)" where there are several.
inline std::string job_label(const std::string& job, const std::vector<std::string>& inputs,
                             size_t i) {
  const std::string name = inputs[i] == "-" ? "standard input" : inputs[i];
  if (inputs.size() == 1) return job + " " + name;
  return job + " " + name + " (" + std::to_string(i + 1) + " of " + std::to_string(inputs.size()) +
         ")";
}

}  // namespace calotype::cli
