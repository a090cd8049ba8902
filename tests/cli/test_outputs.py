"""Outputs that cannot be written: one sentence, and no partial file."""

import resource
import signal

import numpy
import pytest


def limit_file_size(count):
    """For preexec_fn: a disk that is full after `count` bytes."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))

    return limit


COMMANDS = {
    "encode": ["encode", "photo.png", "-o", "{}.safetensors"],
    "encode npy": ["encode", "photo.png", "-o", "{}.npy"],
    "decode png": ["decode", "latents.npy", "-o", "{}.png"],
    "decode jpg": ["decode", "latents.npy", "-o", "{}.jpg"],
    "decode webp": ["decode", "latents.npy", "-o", "{}.webp"],
    "decode npy": ["decode", "latents.npy", "-o", "{}.npy"],
    "roundtrip": ["roundtrip", "photo.png", "-o", "{}.png"],
    "compare": ["roundtrip", "photo.png", "--compare", "{}.png"],
    "convert safetensors": ["convert", "-o", "{}.safetensors"],
    "convert gguf": ["convert", "-o", "{}.gguf"],
    "convert folder": ["convert", "-o", "{}/"],
}


def command(name, output):
    return [word.format(output) for word in COMMANDS[name]]


@pytest.fixture
def inputs(picture, latents):
    picture(), latents(height=8, width=8)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(calotype, inputs, name):
    before = calotype.files()
    line = calotype.error(*command(name, "out"), code=1, preexec_fn=limit_file_size(100))
    assert "out" in line and "too large" in line.lower()
    assert calotype.files() == before


@pytest.mark.parametrize("name", [n for n in COMMANDS if n.startswith(("encode", "decode", "roundtrip", "compare"))])
def test_dev_full(calotype, inputs, name):
    args = command(name, "out")
    suffix = args[-1].split(".")[1]
    (calotype.folder / f"full.{suffix}").symlink_to("/dev/full")
    line = calotype.error(*command(name, "full"), code=1)
    assert "No space left on device" in line


def test_dev_full_by_its_own_name(calotype, inputs):
    line = calotype.error("decode", "latents.npy", "-o", "/dev/full", "--format", "png", code=1)
    assert "/dev/full" in line and "No space left on device" in line
    calotype.error("encode", "photo.png", "-o", "/dev/full", "--format", "npy", code=1)


@pytest.mark.parametrize("args", [["list"], ["info"], ["info", "--json"], ["list", "-q"], ["--help"]])
def test_a_report_that_cannot_be_written_is_a_failure(calotype, args):
    with open("/dev/full", "w") as full:
        process = calotype.start(*args, stdout=full)
        _, errors = process.communicate()
    assert process.returncode == 1 and errors.startswith("calotype: standard output")


@pytest.mark.parametrize("name", [n for n in COMMANDS])
def test_a_folder_that_does_not_exist_is_said_before_any_work(calotype, inputs, name):
    before = calotype.files()
    line = calotype.error(*command(name, "none/out"), "--model" if name.startswith("convert") else "--threads",
                          "embedded" if name.startswith("convert") else "1", code=1)
    assert "none" in line and "does not exist" in line
    assert calotype.files() == before


@pytest.mark.parametrize("output", ["none/", "none/deeper/"])
def test_an_output_folder_that_does_not_exist_is_not_made(calotype, inputs, output):
    line = calotype.error("decode", "latents.npy", "-o", output, code=1)
    assert output in line and "mkdir" in line
    assert not (calotype.folder / "none").exists()


def test_several_inputs_need_a_folder(calotype, picture):
    picture("a.png"), picture("b.png")
    for output in ("out.npy", "-"):
        line = calotype.error("encode", "a.png", "b.png", "-o", output, code=2)
        assert "2 inputs" in line and "folder" in line


def test_two_inputs_for_one_output_are_refused(calotype, picture):
    (calotype.folder / "x").mkdir(), (calotype.folder / "out").mkdir()
    picture("a.png"), picture("x/a.png")
    line = calotype.error("encode", "a.png", "x/a.png", "-o", "out/", code=2)
    assert "x/a.png" in line and "out/a.safetensors" in line


def test_a_named_file_is_overwritten_and_one_in_a_folder_is_not(calotype, inputs):
    (calotype.folder / "out").mkdir()
    for name in ("named.png", "out/latents.png"):
        (calotype.folder / name).write_text("old")
    calotype("decode", "latents.npy", "-o", "named.png")
    assert (calotype.folder / "named.png").read_bytes().startswith(b"\x89PNG")
    line = calotype.error("decode", "latents.npy", "-o", "out/", code=1)
    assert "out/latents.png" in line and "--force" in line
    assert (calotype.folder / "out/latents.png").read_text() == "old"
    calotype("decode", "latents.npy", "-o", "out/", "--force")
    assert (calotype.folder / "out/latents.png").read_bytes().startswith(b"\x89PNG")


def test_an_input_is_not_replaced_by_its_result(calotype, picture):
    picture("a.png")
    before = (calotype.folder / "a.png").read_bytes()
    for output in ("a.png", "./a.png", "."):
        calotype.error("roundtrip", "a.png", "-o", output, code=2)
    assert (calotype.folder / "a.png").read_bytes() == before
    calotype("roundtrip", "a.png", "-o", "a.png", "--force")


def test_folders_may_hold_any_file_name(calotype, latents):
    (calotype.folder / "out").mkdir()
    for name in ("with space.npy", "two.dots.npy", "-dash.npy", "\u00fcml\u00e4ut.npy", "new\nline.npy"):
        latents(name, height=1, width=1)
        assert len(calotype("decode", "--output", "out/", "--", name).stdout.splitlines()) == 1
    assert len(list((calotype.folder / "out").iterdir())) == 5


def test_a_read_only_folder_is_a_sentence(calotype, latents):
    latents(height=1, width=1)
    line = calotype.error("decode", "latents.npy", "-o", "/proc/out.png", code=1)
    assert "/proc/out.png" in line


def test_outputs_follow_the_umask(calotype, latents):
    latents(height=1, width=1)
    calotype("decode", "latents.npy", "-o", "a.png", umask=0o027)
    assert (calotype.folder / "a.png").stat().st_mode & 0o777 == 0o640


def test_unused_values_stay_finite(calotype, latents):
    values = latents(height=2, width=2)
    numpy.save(calotype.folder / "large.npy", values * 1e30)
    calotype("decode", "large.npy", "-o", "a.png")
