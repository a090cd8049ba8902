"""What the tests in Python share: the programs under test, which --calotype names."""

import pathlib
import subprocess

import pytest


def pytest_addoption(parser):
    parser.addoption("--calotype", required=True, type=pathlib.Path,
                     help="the program, in its build folder")


def pytest_configure(config):
    config.addinivalue_line("markers", "timing: judges a time, so it runs alone and without sanitizers")
    config.addinivalue_line("markers", "without_sanitizers: takes what sanitizers keep for themselves")


@pytest.fixture(scope="session")
def program(request):
    """The path of the calotype program."""
    path = request.config.getoption("--calotype").resolve()
    assert path.is_file(), f"{path}: there is no such program; build it first"
    return path


@pytest.fixture(scope="session")
def calotype(program):
    """calotype("decode", …): runs the program, which must succeed, and gives what it printed."""

    def run(*arguments, **options):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True,
                              timeout=600, check=False, **options)
        assert done.returncode == 0, f"calotype {' '.join(map(str, arguments))}: {done.stderr}"
        return done.stdout

    return run
