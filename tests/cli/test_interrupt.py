"""Ctrl-C: exit code 130, one line, nothing half-written."""

import os
import signal
import subprocess
import time

import pytest

# Hours of work.
ENDLESS = ["--backend", "reference", "--threads", "1"]


def interrupt(process, sent=signal.SIGINT, after=1.0):
    time.sleep(after)
    assert process.poll() is None, process.communicate()
    start = time.perf_counter()
    process.send_signal(sent)
    output, errors = process.communicate(timeout=60)
    return time.perf_counter() - start, output, errors


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    [
        ["decode", "latents.npy", "-o", "out.png"],
        ["decode", "latents.npy", "-o", "out.npy"],
        ["encode", "photo.png", "-o", "out.safetensors"],
        ["roundtrip", "photo.png", "-o", "out.png", "--compare", "compare.png"],
        ["bench", "--size", "512x512"],
    ],
    ids=lambda c: " ".join(c[:1] + c[-1:]),
)
def test_a_job_ends_at_once_and_leaves_nothing(calotype, picture, latents, command, sent):
    picture("photo.png", 512, 512), latents(height=64, width=64)
    before = calotype.files()
    process = calotype.start(*command, *ENDLESS)
    seconds, output, errors = interrupt(process, sent)
    assert process.returncode == 130
    assert output == "" and errors == "calotype: interrupted\n"
    assert calotype.files() == before
    assert seconds < 10


def test_the_cpu_backend_too(calotype, latents):
    latents(height=256, width=256)
    process = calotype.start("decode", "latents.npy", "-o", "out.png", "--quiet")
    seconds, _, errors = interrupt(process, after=0.3)
    assert process.returncode == 130 and errors == "calotype: interrupted\n"
    assert calotype.files() == ["latents.npy"]
    assert seconds < 5


def test_spilled_activations_go_too(calotype, latents):
    latents(height=128, width=128)
    (calotype.folder / "scratch").mkdir()
    minimum = calotype.json("info", "--size", "1024x1024")["minimum_bytes"]
    process = calotype.start(
        "decode", "latents.npy", "-o", "out.png", "--memory", minimum, "--scratch", "scratch", "--quiet")
    interrupt(process)
    assert process.returncode == 130
    assert list((calotype.folder / "scratch").iterdir()) == [] and calotype.files() == ["latents.npy"]


def test_an_output_that_exists_stays_as_it_was(calotype, latents):
    latents(height=64, width=64)
    (calotype.folder / "out.png").write_text("precious")
    process = calotype.start("decode", "latents.npy", "-o", "out.png", *ENDLESS)
    interrupt(process)
    assert (calotype.folder / "out.png").read_text() == "precious"


def test_pictures_that_are_done_stay(calotype, latents):
    latents("a.npy", height=1, width=1), latents("b.npy", height=64, width=64)
    (calotype.folder / "out").mkdir()
    process = calotype.start("decode", "a.npy", "b.npy", "-o", "out/", *ENDLESS)
    while not (calotype.folder / "out/a.png").exists():
        time.sleep(0.05)
    interrupt(process)
    assert process.returncode == 130
    assert [f for f in calotype.files() if f.startswith("out")] == ["out/a.png"]


def test_waiting_for_standard_input_ends_too(calotype):
    process = calotype.start("encode", "-", "-o", "out.npy", stdin=subprocess.PIPE)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert process.stderr.read() == "calotype: interrupted\n"


def test_a_signal_that_the_parent_ignores_is_ignored(calotype, latents):
    latents()
    process = calotype.start(
        "bench", "--size", "32x32", "--runs", "3", "--json", "--quiet", *ENDLESS,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 0
