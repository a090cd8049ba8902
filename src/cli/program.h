// The `calotype` program as a function.
#pragma once

namespace calotype::cli {

// Exit codes: 0, 1 for a failed job, 2 for wrong usage, 130 when interrupted.
int calotype_main(int argc, char** argv);

}  // namespace calotype::cli
