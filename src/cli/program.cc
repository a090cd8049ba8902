#include "cli/program.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <system_error>

#include "calotype/error.h"
#include "calotype/version.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/report.h"

namespace calotype::cli {
namespace {

// CLI11's messages, as sentences that name the help to read.
int report_usage(const CLI::App& program, const CLI::ParseError& error) {
  const auto chosen = program.get_subcommands();
  const std::string command = chosen.empty() ? "calotype" : "calotype " + chosen[0]->get_name();
  std::string what = error.what();
  if (chosen.empty() && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    const std::vector<std::string> unknown = program.remaining();
    what = (unknown.empty() ? "a command is missing" : "there is no command " + unknown[0]) +
           std::string("; it is encode, decode, roundtrip, info, convert, list or bench");
  } else if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    const std::vector<std::string> extra = program.remaining(true);
    what =
        (extra.size() == 1 ? "unexpected argument " : "unexpected arguments ") + join(extra, " ");
  }
  print_error(what + " (see " + command + " --help)");
  return kWrongUsage;
}

int run(int argc, char** argv) {
  CLI::App program("Pictures to latents and back: the KL autoencoder of latent diffusion models",
                   "calotype");
  set_help(program, "calotype COMMAND [OPTIONS]",
           R"(Try it with the embedded model:
  calotype encode photo.jpg -o photo.safetensors
  calotype decode photo.safetensors -o back.png
  calotype roundtrip photo.jpg --compare compare.png
Each command has its own help: calotype decode --help
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.)");
  program.set_version_flag("--version", "calotype " CALOTYPE_VERSION, "Print the version and exit");
  program.require_subcommand(1);
  Action action;
  add_encode(program, action);
  add_decode(program, action);
  add_roundtrip(program, action);
  add_info(program, action);
  add_convert(program, action);
  add_list(program, action);
  add_bench(program, action);
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return program.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    return report_usage(program, error);
  }
  return action();
}

// A report that did not reach its reader is a failed job.
int flush(int code) {
  std::cout.flush();
  if (std::cout && std::fflush(stdout) == 0) return code;
  print_error("standard output: the report cannot be written");
  return code == 0 ? kFailed : code;
}

}  // namespace

int calotype_main(int argc, char** argv) {
  install_signal_handlers();
  install_terminate_handler();
  try {
    return flush(run(argc, argv));
  } catch (const Error& error) {
    print_error(error.code() == ErrorCode::kCancelled ? "interrupted" : error.what());
    return exit_code(error);
  } catch (const std::bad_alloc&) {
    print_error(kOutOfMemory);
    return kFailed;
  } catch (const std::system_error& error) {  // threads that could not be started
    print_error(std::string("the system does not give what this job needs: ") +
                error.code().message() +
                "; say fewer --threads, or raise the limits of the process (ulimit -u, -v)");
    return kFailed;
  } catch (const std::exception& error) {
    print_error(std::string("a fault in calotype itself: ") + error.what());
    return kFailed;
  }
}

}  // namespace calotype::cli
