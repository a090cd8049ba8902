"""Outputs that cannot be written, or must not: one sentence, and no partial file."""

import json
import resource
import signal

import numpy
import pytest
from PIL import Image


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


def test_results_do_not_replace_one_another(calotype, picture):
    picture("a.png", 16, 16), picture("a-compare.png", 16, 16)
    (calotype.folder / "out").mkdir()
    (calotype.folder / "link.png").symlink_to("x.png")
    (calotype.folder / "alias").symlink_to("out")
    before = calotype.files()
    for args in (
        ["a.png", "-o", "x.png", "--compare", "./x.png"],
        ["a.png", "-o", "x.png", "--compare", "out/../x.png"],
        ["a.png", "-o", "x.png", "--compare", "link.png"],
        ["a.png", "-o", "link.png", "--compare", "x.png"],
        ["a.png", "-o", "out/x.png", "--compare", "alias/x.png"],
        ["a.png", "a-compare.png", "-o", "out/", "--compare", "out/"],
        ["a.png", "a-compare.png", "-o", "out/", "--compare", "alias/"],
    ):
        calotype.error("roundtrip", *args, code=2)
        assert calotype.files() == before


def test_a_result_does_not_replace_another_input(calotype, picture):
    (calotype.folder / "x").mkdir()
    picture("x/a.png", 16, 16), picture("b.png", 16, 16), picture("b-compare.png", 16, 16)
    before = {f: (calotype.folder / f).read_bytes() for f in calotype.files()}
    line = calotype.error("roundtrip", "b.png", "b-compare.png", "--compare", ".", "--force", code=2)
    assert "b-compare.png" in line
    assert before == {f: (calotype.folder / f).read_bytes() for f in calotype.files()}


@pytest.mark.parametrize("order", [["b.npy", "b-0001.npy"], ["b-0001.npy", "b.npy"]])
def test_pictures_of_a_batch_do_not_replace_other_results(calotype, latents, order):
    latents("b.npy", batch=2, height=1, width=1), latents("b-0001.npy", height=2, width=2)
    (calotype.folder / "out").mkdir()
    run = calotype("decode", *order, "-o", "out/", "--force", "--json", code=2)
    results = {r["input"]: r for r in json.loads(run.stdout)["results"]}
    assert "out/b-0001.png" in results["b.npy"]["error"]
    assert results["b-0001.npy"]["outputs"] == ["out/b-0001.png"]
    assert Image.open(calotype.folder / "out/b-0001.png").size == (16, 16)
    assert [f for f in calotype.files() if f.startswith("out")] == ["out/b-0001.png"]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_model_is_not_replaced_by_a_result(calotype, inputs, force):
    calotype("convert", "-o", "m.safetensors", "-q"), calotype("convert", "-o", "vae/", "-q")
    (calotype.folder / "link.safetensors").symlink_to("m.safetensors")
    weights = "vae/diffusion_pytorch_model.safetensors"
    before = {f: (calotype.folder / f).read_bytes() for f in calotype.files()}
    for model, output in (("m.safetensors", "./m.safetensors"), ("m.safetensors", "link.safetensors"),
                          ("link.safetensors", "m.safetensors"), ("vae", weights), (".", weights)):
        for args in (["encode", "photo.png"], ["decode", "latents.npy"], ["roundtrip", "photo.png"]):
            line = calotype.error(*args, "--model", model, "-o", output, *force, code=2)
            assert "is the model itself" in line
    assert before == {f: (calotype.folder / f).read_bytes() for f in calotype.files()}


def test_a_link_to_a_file_that_is_not_there_is_written_through(calotype, latents):
    latents(height=1, width=1)
    (calotype.folder / "real").mkdir()
    (calotype.folder / "a.png").symlink_to("real/b.png")
    calotype("decode", "latents.npy", "-o", "a.png")
    assert (calotype.folder / "a.png").is_symlink()
    assert (calotype.folder / "real/b.png").read_bytes().startswith(b"\x89PNG")


def test_the_longest_file_names_work(calotype, latents):
    latents(height=1, width=1)
    name = "n" * 245 + ".png"
    calotype("decode", "latents.npy", "-o", name)
    assert name in calotype.files()
    line = calotype.error("decode", "latents.npy", "-o", "n" * 300 + ".png", code=1)
    assert "File name too long" in line


@pytest.mark.parametrize("command", [["decode", "latents.npy"], ["encode", "photo.png"], ["roundtrip", "photo.png"]])
def test_an_output_that_cannot_be_written_is_said_before_the_model_is_read(calotype, inputs, command):
    output = "/proc/out." + ("npy" if command[0] == "encode" else "png")
    line = calotype.error(*command, "-o", output, "--model", "no-such-model", code=1)
    assert output in line and "cannot be written" in line


def test_a_bad_input_costs_the_others_nothing(calotype, latents):
    latents("a.npy", height=2, width=2), latents("big.npy", height=64, width=64), latents("c.npy", height=2, width=2)
    latents("batch.npy", batch=2, height=2, width=2)
    (calotype.folder / "out").mkdir()
    (calotype.folder / "out/batch-0002.png").write_text("old")
    memory = calotype.json("info", "--size", "64x64")["minimum_bytes"]
    run = calotype("decode", "a.npy", "big.npy", "batch.npy", "c.npy", "-o", "out/", "--json",
                   "--memory", memory, code=1)
    results = json.loads(run.stdout)["results"]
    assert [("error" in r) for r in results] == [False, True, True, False]
    assert str(memory) in results[1]["error"] and "exists already" in results[2]["error"]
    assert run.stderr.splitlines() == ["calotype: " + r["error"] for r in results if "error" in r]
    assert {"out/a.png", "out/c.png"} <= set(calotype.files())


def test_sizes_that_do_not_fit_are_wrong_usage_of_their_inputs_alone(calotype, latents):
    latents("a.npy", height=2, width=2), latents("b.npy", height=4, width=6)
    (calotype.folder / "out").mkdir()
    run = calotype("decode", "a.npy", "b.npy", "-o", "out/", "--size", "48x32", "--json", code=2)
    assert [("error" in r) for r in json.loads(run.stdout)["results"]] == [True, False]
    assert "out/b.png" in calotype.files()


def test_a_full_disk_ends_the_run_and_json_says_what_was_done(calotype, latents):
    for name in ("a.npy", "b.npy", "c.npy"):
        latents(name, height=8, width=8 if name == "b.npy" else 1)
    (calotype.folder / "out").mkdir()
    run = calotype("decode", "a.npy", "b.npy", "c.npy", "-o", "out/", "--format", "npy", "--json", code=1,
                   preexec_fn=limit_file_size(8000))
    results = json.loads(run.stdout)["results"]
    assert [r["input"] for r in results] == ["a.npy", "b.npy"]
    assert "too large" in results[1]["error"].lower()


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
