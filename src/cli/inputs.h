// One job an input: those that cannot be read are reported and passed over, so that one bad file
// among a thousand does not cost the others.
#pragma once

#include <string>
#include <vector>

#include "calotype/error.h"
#include "cli/report.h"

namespace calotype::cli {

// job(i, read(inputs[i])) -> Json, collected in `results`. An error of `read` goes to standard
// error and into `results`; one of `job` (no space left, …) would meet every other input too and
// ends it all. Returns the exit code.
template <class Read, class Job>
int for_each_input(const std::vector<std::string>& inputs, const Read& read, const Job& job,
                   Json& results) {
  results = Json::array();
  int code = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    decltype(read(inputs[i])) content;
    try {
      content = read(inputs[i]);
    } catch (const Error& error) {
      print_error(error.what());
      results.push_back({{"input", inputs[i]}, {"error", error.what()}});
      if (code == 0) code = exit_code(error);
      continue;
    }
    results.push_back(job(i, std::move(content)));
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
