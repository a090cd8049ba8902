import json
import os
import signal
import subprocess
from pathlib import Path

import numpy
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """Runs the program in a folder of its own, with no models to find but the embedded one."""

    def __init__(self, path, folder):
        self.path = str(path)
        self.folder = folder
        self.started = []
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "OLLAMA_", "CALOTYPE_"))}
        self.environment["HOME"] = str(folder / "home")
        # Of the address sanitizer: it reserves terabytes of address space, so that no limit fits.
        self.sanitized = b"__asan_init" in Path(path).read_bytes()

    def __call__(self, *args, code=0, text=True, env=None, timeout=300, **more):
        run = subprocess.run(
            [self.path, *map(str, args)],
            cwd=self.folder,
            env=self.environment | (env or {}),
            capture_output=True,
            text=text,
            timeout=timeout,
            **({} if {"input", "stdin"} & more.keys() else {"stdin": subprocess.DEVNULL}),
            **more,
        )
        assert run.returncode == code, f"{args}: exit code {run.returncode}, not {code}\n{run.stdout}\n{run.stderr}"
        return run

    def json(self, *args, **more):
        return json.loads(self(*args, "--json", **more).stdout)

    def error(self, *args, code, **more):
        """The one line that the program says when it ends with `code`."""
        run = self(*args, code=code, **more)
        lines = run.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("calotype: "), run.stderr
        assert run.stdout == ""
        return lines[0]

    def start(self, *args, **more):
        defaults = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
            "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        }
        process = subprocess.Popen(
            [self.path, *map(str, args)], cwd=self.folder, env=self.environment, **(defaults | more)
        )
        self.started.append(process)
        return process

    def stop(self):
        """Ends what a failed test left running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def files(self):
        return sorted(
            str(p.relative_to(self.folder))
            for p in self.folder.rglob("*")
            if p.is_file() and "home" not in p.relative_to(self.folder).parts[:1]
        )


@pytest.fixture
def calotype(request, tmp_path):
    (tmp_path / "home").mkdir()
    program = Program(Path(request.config.getoption("--calotype")).resolve(), tmp_path)
    yield program
    program.stop()


def gradient(width, height, seed=0):
    """A smooth picture, different for each seed."""
    y, x = numpy.mgrid[0:height, 0:width]
    channels = [127 + 100 * numpy.sin(seed + x / (9 + c) + y / (17 - 2 * c) + c) for c in range(3)]
    return numpy.stack(channels, axis=-1).round().astype(numpy.uint8)


@pytest.fixture
def picture(tmp_path):
    """picture(name, width, height): makes a picture in the program's folder."""

    def make(name="photo.png", width=64, height=48, seed=0):
        Image.fromarray(gradient(width, height, seed)).save(tmp_path / name)
        return name

    return make


@pytest.fixture
def latents(tmp_path):
    """latents(name, batch, height, width): random latents for the embedded model, NCHW, as .npy."""

    def make(name="latents.npy", batch=1, height=4, width=6, seed=0):
        values = numpy.random.default_rng(seed).standard_normal((batch, 16, height, width)).astype(numpy.float32)
        numpy.save(tmp_path / name, values)
        return values

    return make


@pytest.fixture
def root():
    return ROOT
