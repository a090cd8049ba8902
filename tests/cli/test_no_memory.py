"""Allocations that fail, at every hundredth place of a job: one sentence and nothing half-written."""

import subprocess
from pathlib import Path

import pytest

JOBS = {
    "encode": ["encode", "photo.png", "-o", "out/a.npy"],
    "decode": ["decode", "latents.npy", "-o", "out/a.png"],
    "convert": ["convert", "-o", "out/a.gguf"],
}


@pytest.fixture(scope="module")
def failing_malloc(tmp_path_factory):
    library = tmp_path_factory.mktemp("library") / "failing_malloc.so"
    source = Path(__file__).with_name("failing_malloc.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


@pytest.mark.without_sanitizers  # they bring an allocator of their own
@pytest.mark.parametrize("count", ["1", "-1"], ids=["once", "from then on"])
@pytest.mark.parametrize("job", JOBS)
def test_one_sentence_wherever_it_fails(calotype, picture, latents, failing_malloc, job, count):
    picture(width=16, height=16)
    latents(height=2, width=2)
    (calotype.folder / "out").mkdir()

    said = calotype.folder / "allocations"
    environment = calotype.environment | {"LD_PRELOAD": failing_malloc, "FAIL_COUNT": count, "FAIL_SAYS": str(said)}
    command = [calotype.path, *JOBS[job], "-q", "--force"]

    def run(start):
        more = {"cwd": calotype.folder, "capture_output": True, "text": True, "timeout": 60}
        return subprocess.run(command, env=environment | {"FAIL_FROM": str(start)}, **more)

    whole = run(-1)
    assert whole.returncode == 0, whole.stderr
    allocations = int(said.read_text())

    wrong = []
    # Before number 50 the libraries' own beginnings, of which no program can say anything.
    for start in range(50, allocations, 97):
        done = run(start)
        one_line = done.stderr.startswith("calotype: ") and len(done.stderr.splitlines()) == 1
        # Where a library can do without, the job is done.
        if done.returncode != 0 and not (done.returncode in (1, 2) and one_line):
            wrong.append((start, done.returncode, done.stderr))
    assert not wrong
    assert set(calotype.files()) <= {"allocations", "latents.npy", "photo.png", JOBS[job][-1]}
