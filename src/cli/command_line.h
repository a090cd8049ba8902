// The options of a command. CLI11 stays behind this header: it costs seconds in every file that
// includes it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace calotype::cli {

using Action = std::function<int()>;  // what a command does; returns the exit code

struct Size {
  int64_t width = 0, height = 0;
};

// Usage line and closing text of a --help.
void set_help(CLI::App& app, const std::string& usage, const std::string& footer);

// A command of the program. `names` of an option are "-o,--output", or "JOB" without dashes for
// what stands alone; values keep what they hold where an option is not given, and must outlive
// parsing.
class CommandLine {
 public:
  CommandLine(CLI::App& program, const std::string& name, const std::string& description,
              const std::string& usage, const std::string& examples);

  // The heading of the options that follow.
  void heading(const std::string& text) { heading_ = text; }

  // One or more file names, required.
  void files(const std::string& name, std::vector<std::string>& values,
             const std::string& description);
  void flag(const std::string& names, bool& value, const std::string& description);
  void text(const std::string& names, std::string& value, const std::string& type,
            const std::string& description);
  // `good` says whether a text is `expected`.
  void text(const std::string& names, std::string& value, const std::string& type,
            const std::string& description, bool (*good)(const std::string&),
            const std::string& expected);
  // The name of a file or folder to write, not empty.
  void output(const std::string& names, std::string& value, const std::string& description);
  // One of `words`.
  void choice(const std::string& names, std::string& value, const std::vector<std::string>& words,
              const std::string& description);
  // A whole number in [low, high].
  void number(const std::string& names, int64_t& value, int64_t low, int64_t high,
              const std::string& description, const std::string& type = "N");
  // "1024x768".
  void size(const std::string& names, std::optional<Size>& value, const std::string& description);

  // Of options above, by a name with its dashes.
  void require(const std::string& name);
  void exclude(const std::string& name, const std::string& other);
  void need(const std::string& name, const std::string& other);

  // Sets `action` to `job` where the command is the one asked for.
  void run(Action& action, const Action& job);

 private:
  CLI::Option* finish(CLI::Option* option, const std::string& type);

  CLI::App* app_;
  std::string heading_ = "Options";
};

}  // namespace calotype::cli
