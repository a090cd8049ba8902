"""A bar on a terminal, lines in a log, nothing with --quiet."""

import json
import os
import pty
import re
import subprocess
import time

import pytest

# Slow enough to be watched: float64 in plain loops.
SLOW = ["--backend", "reference", "--threads", "1"]


def run_on_terminal(calotype, *args):
    """What the program writes to a terminal as standard error, and to standard output."""
    main, terminal = pty.openpty()
    process = calotype.start(*args, stderr=terminal, stdin=subprocess.DEVNULL)
    os.close(terminal)
    seen = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    output = process.communicate()[0]
    os.close(main)
    assert process.returncode == 0, seen
    return seen.decode(), output


@pytest.mark.parametrize(
    "command", [["encode", "photo.png", "-o", "a.npy"], ["roundtrip", "photo.png"], ["decode", "latents.npy", "-o", "a.png"]],
    ids=lambda c: c[0],
)
def test_a_terminal_shows_a_bar_that_grows_and_goes(calotype, picture, latents, command):
    picture("photo.png", 96, 96), latents(height=12, width=12)
    seen, output = run_on_terminal(calotype, *command, *SLOW)
    percents = [int(p) for p in re.findall(r"(\d+) %", seen)]
    assert len(percents) >= 2 and percents == sorted(percents) and percents[-1] <= 100
    assert re.search(rf"\r{command[0]} \S+ \[#+-+\]", seen)
    assert seen.endswith("\r\x1b[K") and "\n" not in seen
    assert "->" in output or "PSNR" in output


def test_quiet_shows_no_bar(calotype, picture):
    picture("photo.png", 64, 64)
    assert run_on_terminal(calotype, "encode", "photo.png", "-o", "a.npy", "--quiet", *SLOW) == ("", "")


def test_a_log_gets_few_lines(calotype, latents):
    latents(height=16, width=16)
    start = time.perf_counter()
    run = calotype("decode", "latents.npy", "-o", "a.png", *SLOW)
    seconds = time.perf_counter() - start
    lines = run.stderr.splitlines()
    assert len(lines) <= min(seconds / 3, 10)
    percents = []
    for line in lines:
        percents.append(int(re.fullmatch(r"calotype: decode latents.npy: (\d+) % after .*", line)[1]))
    assert all(later - earlier >= 9 for earlier, later in zip(percents, percents[1:]))


def test_a_bench_in_a_log_says_how_far_it_is(calotype):
    # Long enough for at least one line on any machine.
    run = calotype("bench", "--size", "32x32", "--runs", "20", *SLOW, timeout=600)
    assert re.search(r"^calotype: bench decode: \d+ % after \d+ s, \d+ s left$", run.stderr, re.M)


def test_json_comes_without_progress(calotype):
    run = calotype("bench", "--size", "32x32", "--runs", "20", "--json", *SLOW, timeout=600)
    assert run.stderr == "" and json.loads(run.stdout)
