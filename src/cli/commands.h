// The commands: each adds itself to the program, and sets `action` when it is the one asked for.
#pragma once

#include "cli/command_line.h"

namespace calotype::cli {

void add_encode(CLI::App& program, Action& action);
void add_decode(CLI::App& program, Action& action);
void add_roundtrip(CLI::App& program, Action& action);
void add_info(CLI::App& program, Action& action);
void add_convert(CLI::App& program, Action& action);
void add_list(CLI::App& program, Action& action);
void add_bench(CLI::App& program, Action& action);

}  // namespace calotype::cli
