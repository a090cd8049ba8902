"""Wrong usage is exit code 2 and one sentence; help and version are 0."""

import platform
import re

import pytest

COMMANDS = ["encode", "decode", "roundtrip", "info", "convert", "list", "bench"]
WITH_MODEL = ["encode", "decode", "roundtrip", "info", "convert", "bench"]
COMPUTING = ["encode", "decode", "roundtrip", "info", "bench"]
# The shortest command lines that are complete, but for files that do not exist.
COMPLETE = {
    "encode": ["encode", "no.png", "-o", "out.npy"],
    "decode": ["decode", "no.npy", "-o", "out.png"],
    "roundtrip": ["roundtrip", "no.png"],
    "info": ["info"],
    "convert": ["convert", "-o", "out.safetensors"],
    "list": ["list"],
    "bench": ["bench", "--size", "8x8"],
}


def test_version_is_semver(calotype):
    assert re.fullmatch(r"calotype \d+\.\d+\.\d+\n", calotype("--version").stdout)


def test_help_names_every_command(calotype):
    text = calotype("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", text, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_usage_and_examples_with_known_options(calotype, command):
    text = calotype(command, "--help").stdout
    assert text.startswith(f"Usage: calotype {command}")
    options, examples = text.split("Examples:\n")
    examples = [line for line in examples.splitlines() if line.startswith("  ")]
    assert len(examples) >= 2
    known = set(re.findall(r"--[a-z][a-z-]*", options)) | {"-o", "-m", "-q", "-h"}
    for word in " ".join(line for line in examples if "|" not in line).split():
        if word.startswith("-") and word != "-":
            assert word.rstrip(";)") in known
    assert max(map(len, text.splitlines())) <= 100


def test_no_command_is_wrong_usage(calotype):
    assert "a command is missing" in calotype.error(code=2)


def test_unknown_command_is_wrong_usage(calotype):
    assert "frobnicate" in calotype.error("frobnicate", code=2)


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_option_is_wrong_usage_that_names_it_and_the_help(calotype, command):
    line = calotype.error(*COMPLETE[command], "--frobnicate", code=2)
    assert "--frobnicate" in line and f"calotype {command} --help" in line


@pytest.mark.parametrize("command", COMPUTING)
@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", "", "99999999999999999999"])
def test_threads_must_be_a_whole_number_from_1_on(calotype, command, threads):
    assert "--threads" in calotype.error(*COMPLETE[command], f"--threads={threads}", code=2)


@pytest.mark.parametrize("command", COMPUTING)
@pytest.mark.parametrize("option, value", [("--backend", "gpu"), ("--precision", "f8")])
def test_unknown_words_are_wrong_usage_that_lists_the_known(calotype, command, option, value):
    line = calotype.error(*COMPLETE[command], option, value, code=2)
    assert option in line and value in line and "is not one of" in line


@pytest.mark.parametrize("command", WITH_MODEL)
def test_unknown_family_is_wrong_usage(calotype, command):
    line = calotype.error(*COMPLETE[command], "--family", "sd9", code=2)
    assert "sd9" in line and "flux2" in line


@pytest.mark.parametrize("size", ["64", "64x", "x64", "0x64", "64x-1", "64*64", "64x64x3", "9999999x1", "1e3x5", " 64x64"])
def test_sizes_are_width_x_height(calotype, size):
    assert "--size" in calotype.error("info", f"--size={size}", code=2)
    assert "--resize" in calotype.error("encode", "no.png", "-o", "out.npy", f"--resize={size}", code=2)


@pytest.mark.parametrize(
    "args",
    [
        ["encode"],
        ["encode", "a.png"],
        ["encode", "-o", "out.npy"],
        ["encode", "a.png", "-o"],
        ["encode", "a.png", "-o", "out.npy", "--seed", "1"],  # without --sample
        ["encode", "a.png", "-o", "out.npy", "--sample", "--seed", "-1"],
        ["encode", "a.png", "-o", "out.npy", "--sample", "--moments"],
        ["encode", "a.png", "-o", "out.npy", "--unscaled", "--moments"],
        ["encode", "a.png", "-o", "out.npy", "--dtype", "bf16"],  # .npy has none
        ["encode", "a.png", "-o", "out.npy", "--dtype", "f64"],
        ["encode", "a.png", "-o", "out.latent", "--moments"],
        ["encode", "a.png", "-o", "out.latent", "--layout", "nhwc"],
        ["encode", "a.png", "-o", "out.npy", "--background", "#12345"],
        ["encode", "a.png", "-o", "out.npy", "--background", "purple"],
        ["encode", "-", "-", "-o", "."],
        ["decode"],
        ["decode", "a.npy"],
        ["decode", "a.npy", "-o", "out.png", "--quality", "0"],
        ["decode", "a.npy", "-o", "out.png", "--quality", "101"],
        ["decode", "a.npy", "-o", "out.png", "--bit-depth", "12"],
        ["decode", "a.npy", "-o", "out.jpg", "--bit-depth", "16"],
        ["decode", "a.npy", "-o", "out.dat", "--format", "webp", "--bit-depth", "16"],
        ["decode", "a.npy", "-o", "out.npy", "--bit-depth", "16"],
        ["decode", "a.npy", "-o", "out.png", "--quality", "90"],
        ["decode", "a.npy", "-o", ".", "--quality", "90"],
        ["decode", "a.npy", "-o", "out.npy", "--quality", "90"],
        ["decode", "a.npy", "-o", "out.gif"],
        ["decode", "a.npy", "-o", "out"],
        ["decode", "a.npy", "-o", "out.png", "--format", "gif"],
        ["roundtrip"],
        ["roundtrip", "a.png", "-o", "same.png", "--compare", "same.png"],
        ["roundtrip", "a.png", "--amplify", "0"],
        ["roundtrip", "a.png", "--quality", "90"],
        ["roundtrip", "a.png", "-o", "out.jpg", "--compare", "out.webp", "--bit-depth", "16"],
        ["roundtrip", "a.png", "-o", "out.gif"],
        ["roundtrip", "a.png", "--compare", "out.gif"],
        ["convert"],
        ["convert", "-o", "out.bin"],
        ["convert", "-o", "-"],
        ["convert", "-o", "out.gguf", "--ollama", "name"],
        ["convert", "-o", "out/", "--keys", "original"],
        ["convert", "-o", "out.safetensors", "--dtype", "q8_0"],
        ["convert", "-o", "out.safetensors", "--dtype", "i8"],
        ["info", "embedded"],
        ["list", "extra"],
        ["bench", "train"],
        ["bench", "--runs", "0"],
        ["bench", "--random", "1", "--model", "embedded"],
        ["bench", "--random", "-1"],
    ],
    ids=" ".join,
)
def test_wrong_usage(calotype, args):
    calotype.error(*args, code=2)
    assert calotype.files() == []


@pytest.mark.parametrize("option", ["-o", "--compare"])
@pytest.mark.parametrize("command", ["encode", "decode", "roundtrip", "convert"])
def test_an_output_has_a_name(calotype, command, option):
    if option == "-o" or command == "roundtrip":
        inputs = [] if command == "convert" else ["a.png"]
        assert "'' is not the name of a file or folder" in calotype.error(command, *inputs, option, "", code=2)


def test_an_option_of_one_of_two_pictures_is_taken(calotype, picture):
    picture(width=16, height=16)
    calotype("roundtrip", "photo.png", "-o", "a.png", "--compare", "b.jpg", "--quality", "50", "--bit-depth", "16")


@pytest.mark.parametrize("command", COMPUTING)
def test_a_gpu_that_is_asked_for_and_not_there_is_a_failed_job(calotype, picture, latents, command):
    picture("no.png"), latents("no.npy")
    environment = {"CALOTYPE_CUDA_PLUGIN": "/no/such/plugin.so"}
    line = calotype.error(*COMPLETE[command], "--backend", "cuda", code=1, env=environment)
    assert "/no/such/plugin.so" in line
    assert not (calotype.folder / "out.png").exists() and not (calotype.folder / "out.npy").exists()


@pytest.mark.parametrize("precision", ["f16", "fp8"])
@pytest.mark.parametrize("command", COMPUTING)
def test_precisions_that_the_cpu_lacks_are_refused(calotype, picture, latents, command, precision):
    picture("no.png"), latents("no.npy")
    line = calotype.error(*COMPLETE[command], "--backend", "cpu", "--precision", precision, code=2)
    assert f"--precision {precision} is for GPUs" in line


@pytest.mark.parametrize("command", COMPUTING)
@pytest.mark.parametrize("memory", ["0", "-1G", "much", "1.3X", "1G1"])
def test_memory_is_a_size(calotype, command, memory):
    assert memory in calotype.error(*COMPLETE[command], f"--memory={memory}", code=2)
    assert memory in calotype.error(*COMPLETE[command], code=2, env={"CALOTYPE_MEMORY": memory})


@pytest.mark.parametrize("command", ["encode", "decode", "roundtrip", "convert"])
def test_a_family_alone_is_no_model(calotype, picture, latents, command):
    picture("no.png"), latents("no.npy")
    assert "--model" in calotype.error(*COMPLETE[command], "--family", "flux", code=2)


@pytest.mark.parametrize("command", WITH_MODEL)
@pytest.mark.parametrize("model", [["--model", ""], ["--model="], ["-m", ""]], ids=" ".join)
def test_an_empty_name_is_no_model(calotype, command, model):
    assert "--model" in calotype.error(*COMPLETE[command], *model, code=2)


@pytest.mark.parametrize("command", COMPUTING)
@pytest.mark.parametrize("simd", ["frobnicate", "AVX9000"])
def test_unknown_instruction_set_is_wrong_usage(calotype, command, simd):
    line = calotype.error(*COMPLETE[command], code=2, env={"CALOTYPE_SIMD": simd})
    assert simd in line


def test_an_instruction_set_of_another_machine_is_wrong_usage(calotype):
    other = {"x86_64": "neon", "aarch64": "avx2"}[platform.machine()]
    assert other in calotype.error("info", code=2, env={"CALOTYPE_SIMD": other})


@pytest.mark.parametrize("command", WITH_MODEL)
def test_a_model_that_is_not_there_is_a_failed_job(calotype, picture, latents, command):
    picture("no.png"), latents("no.npy")
    line = calotype.error(*COMPLETE[command], "--model", "no-such-model", code=1)
    assert "no-such-model" in line


def test_the_program_knows_the_library_by_its_public_headers_only(root):
    sources = sorted((root / "src/cli").glob("*.cc")) + sorted((root / "src/cli").glob("*.h"))
    assert len(sources) > 10
    for source in sources:
        for include in re.findall(r'#include "([^"]+)"', source.read_text()):
            assert include.startswith(("calotype/", "cli/", "hwy/")), f"{source.name} includes {include}"
