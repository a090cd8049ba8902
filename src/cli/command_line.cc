#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <string_view>

#include "cli/report.h"

namespace calotype::cli {
namespace {

constexpr int64_t kLongestSide = 1 << 20;
constexpr int kHelpColumn = 30;

// CLI11's help without what the descriptions say anyway, and the usage line first.
class HelpFormatter : public CLI::Formatter {
 public:
  explicit HelpFormatter(std::string usage) : usage_(std::move(usage)) {
    column_width(kHelpColumn);
    label("Positionals", "Inputs");
  }
  std::string make_usage(const CLI::App*, std::string) const override { return {}; }
  std::string make_description(const CLI::App* app) const override {
    return "Usage: " + usage_ + "\n\n" + app->get_description() + ".\n";
  }
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    std::string help = Formatter::make_help(app, std::move(name), mode);
    return CLI::detail::find_and_replace(std::move(help), "\n\n\n", "\n\n");
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_type_name().empty() ? "" : " " + option->get_type_name();
  }

 private:
  std::string usage_;
};

template <class Number>
bool parse_whole(std::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<Size> parse_size(const std::string& text) {
  const size_t x = text.find_first_of("xX");
  Size size;
  if (x == std::string::npos || !parse_whole(std::string_view(text).substr(0, x), size.width) ||
      !parse_whole(std::string_view(text).substr(x + 1), size.height)) {
    return {};
  }
  const bool sane = size.width >= 1 && size.height >= 1 && size.width <= kLongestSide &&
                    size.height <= kLongestSide;
  return sane ? std::optional(size) : std::nullopt;
}

CLI::Validator validator(std::function<std::string(std::string&)> check) {
  return {std::move(check), "", "check"};
}

}  // namespace

void set_help(CLI::App& app, const std::string& usage, const std::string& footer) {
  app.formatter(std::make_shared<HelpFormatter>(usage));
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.footer(footer);
}

CommandLine::CommandLine(CLI::App& program, const std::string& name, const std::string& description,
                         const std::string& usage, const std::string& examples)
    : app_(program.add_subcommand(name, description)->group("Commands")) {
  set_help(*app_, usage, "Examples:" + examples);
}

CLI::Option* CommandLine::finish(CLI::Option* option, const std::string& type) {
  return option->type_name(type)->group(heading_);
}

void CommandLine::files(const std::string& name, std::vector<std::string>& values,
                        const std::string& description) {
  finish(app_->add_option(name, values, description), "")->required();
}

void CommandLine::flag(const std::string& names, bool& value, const std::string& description) {
  app_->add_flag(names, value, description)->group(heading_);
}

void CommandLine::text(const std::string& names, std::string& value, const std::string& type,
                       const std::string& description) {
  finish(app_->add_option(names, value, description), type);
}

void CommandLine::text(const std::string& names, std::string& value, const std::string& type,
                       const std::string& description, bool (*good)(const std::string&),
                       const std::string& expected) {
  const auto check = [good, expected](std::string& given) {
    return good(given) ? std::string() : (given.empty() ? "''" : given) + " is not " + expected;
  };
  finish(app_->add_option(names, value, description), type)->check(validator(check));
}

void CommandLine::output(const std::string& names, std::string& value,
                         const std::string& description) {
  text(
      names, value, "OUT", description, [](const std::string& given) { return !given.empty(); },
      "the name of a file or folder");
}

void CommandLine::choice(const std::string& names, std::string& value,
                         const std::vector<std::string>& words, const std::string& description) {
  const auto check = [words](std::string& given) {
    for (const std::string& word : words) {
      if (given == word) return std::string();
    }
    return given + " is not one of " + join(words, ", ");
  };
  finish(app_->add_option(names, value, description), join(words, "|"))->check(validator(check));
}

void CommandLine::number(const std::string& names, int64_t& value, int64_t low, int64_t high,
                         const std::string& description, const std::string& type) {
  const auto set = [&value, low, high, names](const std::string& given) {
    int64_t number = 0;
    if (!parse_whole(std::string_view(given), number) || number < low || number > high) {
      throw CLI::ValidationError(names,
                                 given + " is not a whole number from " + std::to_string(low) +
                                     (high == INT64_MAX ? " on" : " to " + std::to_string(high)));
    }
    value = number;
  };
  finish(app_->add_option_function<std::string>(names, set, description), type);
}

void CommandLine::size(const std::string& names, std::optional<Size>& value,
                       const std::string& description) {
  const auto set = [&value, names](const std::string& given) {
    value = parse_size(given);
    if (!value) {
      throw CLI::ValidationError(names, given + " is not a size such as 1024x768 (width x height)");
    }
  };
  finish(app_->add_option_function<std::string>(names, set, description), "WxH");
}

void CommandLine::require(const std::string& name) { app_->get_option(name)->required(); }

void CommandLine::exclude(const std::string& name, const std::string& other) {
  app_->get_option(name)->excludes(app_->get_option(other));
}

void CommandLine::need(const std::string& name, const std::string& other) {
  app_->get_option(name)->needs(app_->get_option(other));
}

void CommandLine::run(Action& action, const Action& job) {
  app_->callback([&action, job] { action = job; });
}

}  // namespace calotype::cli
