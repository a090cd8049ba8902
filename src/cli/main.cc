#include "cli/program.h"

int main(int argc, char** argv) { return calotype::cli::calotype_main(argc, argv); }
