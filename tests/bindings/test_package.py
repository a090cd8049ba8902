"""The package as it is installed: imports, types, the program, the wheel."""

import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import calotype
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = pathlib.Path(calotype.__file__).parent


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_takes_less_than_100_ms_beyond_numpy():
    code = "import time, numpy; t = time.perf_counter(); import calotype; print(time.perf_counter() - t)"
    seconds = min(float(python(code)) for _ in range(5))
    print(f"import: {1000 * seconds:.1f} ms")
    assert seconds < 0.1


def test_importing_does_not_import_what_it_may_not_need():
    modules = python("import calotype, sys; print(*sys.modules)").split()
    assert not {"torch", "PIL", "diffusers", "huggingface_hub", "numpy"} & set(modules)


def test_the_package_carries_what_it_links():
    assert (PACKAGE / "py.typed").is_file() and (PACKAGE / "_native.pyi").is_file()
    module = next(PACKAGE.glob("_native*.so"))
    libraries = list(PACKAGE.glob("libcalotype.so*"))
    assert len(libraries) == 1, "one shared library for module and program"
    for linked in (module, PACKAGE / "bin" / "calotype"):
        clean = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
        found = subprocess.run(["ldd", linked], capture_output=True, text=True, env=clean, check=True)
        line = next(l for l in found.stdout.splitlines() if "libcalotype" in l)
        assert pathlib.Path(line.split("=>")[1].split()[0]).resolve() == libraries[0].resolve()


def test_no_folder_of_the_build_is_looked_into():
    """A wheel is built in a temporary folder; on another machine anyone may make one of that name."""
    binaries = [*PACKAGE.glob("*.so*"), PACKAGE / "bin" / "calotype"]
    assert len(binaries) == 3
    for binary in binaries:
        found = re.findall(rb"[\x20-\x7e]*(?<!/var)/tmp/[\x20-\x7e]*", binary.read_bytes())
        assert not found, f"{binary.name}: {found}"
        assert os.fsencode(ROOT) not in binary.read_bytes()


def test_the_stub_names_what_the_module_has():
    from calotype import _native

    stub = (PACKAGE / "_native.pyi").read_text()
    for holder in (_native, _native.Model):
        for name in vars(holder):
            if not name.startswith("_"):
                assert f"{name}(" in stub or f"{name}:" in stub or f"class {name}" in stub, name


def test_everything_public_is_documented():
    import calotype.diffusers

    for module in (calotype, calotype.diffusers):
        assert inspect.getdoc(module)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert inspect.getdoc(thing), name
    for name, member in vars(calotype.AutoencoderKL).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            assert inspect.getdoc(member), name


def test_the_program_of_the_package_is_the_program(program, tmp_path):
    command = pathlib.Path(PACKAGE.parent / "bin" / "calotype")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == f"calotype {calotype.__version__}"
    photo = ROOT / "models/photos/astronaut.png"
    for which, name in ((command, "package.npy"), (program, "build.npy")):
        arguments = ["encode", "-q", "--resize", "64x64", photo, "-o", tmp_path / name]
        subprocess.run([which, *arguments], check=True)
    assert (tmp_path / "package.npy").read_bytes() == (tmp_path / "build.npy").read_bytes()
    wrong = subprocess.run([command, "frobnicate"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr


def test_python_decodes_what_the_program_decodes(program, tmp_path):
    latents = np.random.default_rng(0).standard_normal((1, 16, 8, 8), dtype=np.float32)
    np.save(tmp_path / "latents.npy", latents)
    out = tmp_path / "image.npy"
    subprocess.run([program, "decode", "-q", tmp_path / "latents.npy", "-o", out], check=True)
    vae = calotype.AutoencoderKL.from_pretrained()
    np.testing.assert_array_equal(vae.decode(latents, output="np", clamp=False), np.load(out))


def test_python_adds_less_than_3_percent_to_a_decode(program):
    """512x512, against the program's own benchmark of decoding alone: no file is written."""
    latents = np.random.default_rng(0).standard_normal((1, 16, 64, 64), dtype=np.float32)
    vae = calotype.AutoencoderKL.from_pretrained()
    ours, theirs = [], []
    for turn in range(16):  # in turns, so that both see the same machine
        for _ in range(3):
            start = time.perf_counter()
            vae.decode(latents, output="np")
            ours.append(time.perf_counter() - start)
        report = subprocess.run(
            [program, "bench", "decode", "--quiet", "--json", "--size", "512x512", "--runs", "3"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        theirs += json.loads(report.stdout)["runs_s"]
        # The least of many is what each takes where nothing else runs; a busy machine takes longer
        # to show it.
        within = min(ours) < max(1.03 * min(theirs), min(theirs) + 0.002)
        if turn >= 3 and within:
            break
    print(f"Python {1000 * min(ours):.1f} ms, the program {1000 * min(theirs):.1f} ms")
    assert within


@pytest.mark.parametrize("example", ["roundtrip"])
def test_examples_run(example, tmp_path):
    out = tmp_path / "out.png"
    photo = ROOT / "models/photos/astronaut.png"
    subprocess.run(
        [sys.executable, ROOT / "examples/python" / f"{example}.py", photo, out], check=True
    )
    assert out.stat().st_size > 100_000


def test_the_repaired_wheel_is_small_and_complete():
    folder = os.environ.get("CALOTYPE_WHEELS")
    assert folder, "CALOTYPE_WHEELS names the folder of repaired wheels; scripts/test-python.sh does"
    wheels = list(pathlib.Path(folder).glob("calotype-*.whl"))
    assert wheels
    for wheel in wheels:
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
        assert wheel.stat().st_size < 15e6
        assert "manylinux" in wheel.name
