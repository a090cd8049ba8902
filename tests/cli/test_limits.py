"""What formats, memory and numbers cannot hold: said early, by name."""

import json
import resource
import struct
import subprocess
import time
import zlib

import numpy
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file


def limited(calotype, *args, memory=1 << 30, **more):
    """Its error, from a process that may take `memory` bytes of heap."""
    def limit():
        if not calotype.sanitized:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

    start = time.perf_counter()
    line = calotype.error(*args, code=1, preexec_fn=limit, **more)
    assert time.perf_counter() - start < 10
    return line


def flat_png(path, width, height):
    """A grey PNG of few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@pytest.mark.parametrize("command", [["encode", "-o", "a.npy"], ["roundtrip"]], ids=lambda c: c[0])
def test_a_picture_that_takes_more_than_the_memory_is_refused_by_its_header(calotype, command):
    flat_png(calotype.folder / "flat.png", 16384, 16384)
    assert (calotype.folder / "flat.png").stat().st_size < 100_000
    line = limited(calotype, *command, "flat.png", "--memory", "300M")
    assert "flat.png" in line and "16384 x 16384" in line and "memory" in line
    assert calotype.files() == ["flat.png"]


def test_a_size_that_takes_more_than_the_memory_is_refused(calotype, picture):
    line = limited(calotype, "encode", picture(), "-o", "a.npy", "--resize", "12000x12000", "--memory", "200M")
    assert "photo.png" in line and "12000x12000" in line and "memory" in line


@pytest.mark.parametrize("args", [["encode", "-", "-o", "a.npy"], ["decode", "-", "-o", "a.png"]], ids=lambda a: a[0])
def test_endless_input_is_refused_by_its_first_bytes(calotype, args):
    yes = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    try:
        assert "standard input" in limited(calotype, *args, stdin=yes.stdout)
    finally:
        yes.kill(), yes.wait(), yes.stdout.close()
    assert "/dev/zero" in limited(calotype, args[0], "/dev/zero", *args[2:])


def test_endless_input_that_begins_well_ends_at_the_memory(calotype):
    yes = subprocess.Popen(["sh", "-c", "printf '\\211PNG\\r\\n\\032\\n'; exec yes"], stdout=subprocess.PIPE)
    try:
        assert "standard input" in limited(calotype, "encode", "-", "-o", "a.npy", "--memory", "100M", stdin=yes.stdout)
    finally:
        yes.kill(), yes.wait(), yes.stdout.close()


@pytest.mark.parametrize("suffix, side", [("webp", 16383), ("jpg", 65500)])
def test_sizes_that_a_format_lacks_are_refused_before_any_work(calotype, latents, suffix, side):
    latents(height=1, width=side // 8 + 1)
    # In hours: it would not end in time if it began.
    slow = ["--backend", "reference", "--threads", 1]
    line = calotype.error("decode", "latents.npy", "-o", f"wide.{suffix}", *slow, code=1, timeout=60)
    assert f"wide.{suffix}" in line and str(side) in line
    third = side // 3
    Image.new("RGB", (third, 8)).save(calotype.folder / "third.png")
    line = calotype.error("roundtrip", "third.png", "--compare", f"wide.{suffix}", *slow, code=1, timeout=60)
    assert f"wide.{suffix}" in line and str(side) in line


def test_latents_that_overflow_f16_are_refused(calotype, picture):
    calotype("convert", "-o", "loud/", "-q", "--dtype", "f32")
    path = calotype.folder / "loud/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["encoder.conv_out.bias"] = tensors["encoder.conv_out.bias"] + numpy.float32(1e6)
    save_file(tensors, path, {"format": "pt"})
    picture(width=16, height=16)
    for name in ("a.npy", "a.safetensors"):
        line = calotype.error("encode", "photo.png", "-o", name, "--dtype", "f16", "--model", "loud", code=1)
        assert name in line and "overflows f16; use bf16 or f32" in line
        assert name not in calotype.files()
    calotype("encode", "photo.png", "-o", "a.safetensors", "--dtype", "bf16", "--model", "loud")
    line = calotype.error("convert", "-o", "half.gguf", "--dtype", "f16", "--model", "loud", code=1)
    assert "encoder.conv_out.bias" in line and "overflows f16" in line
    assert "half.gguf" not in calotype.files()


@pytest.mark.parametrize("factor", ["1e-320", "1e308"])
def test_factors_that_float32_lacks_are_refused(calotype, factor):
    calotype("convert", "-o", "vae/", "-q")
    path = calotype.folder / "vae/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"scaling_factor": 0}).replace('"scaling_factor": 0', f'"scaling_factor": {factor}'))
    line = calotype.error("info", "--model", "vae", code=1)
    assert "config.json" in line and "scaling_factor" in line


def test_a_hard_edge_is_resized_as_pillow_does(calotype):
    edge = numpy.full((16, 16, 3), 255, numpy.uint8)
    edge[:, :8] = 0
    Image.fromarray(edge).save(calotype.folder / "edge.png")
    Image.fromarray(edge).resize((64, 64), Image.Resampling.LANCZOS).save(calotype.folder / "pillow.png")
    for name, options in {"edge": ["--resize", "64x64"], "pillow": []}.items():
        calotype("encode", f"{name}.png", "-o", f"{name}.npy", *options)
    ours, pillow = (numpy.load(calotype.folder / f"{n}.npy") for n in ("edge", "pillow"))
    assert numpy.abs(ours - pillow).max() < 0.05 * numpy.abs(pillow).max()


@pytest.mark.without_sanitizers  # they reserve terabytes of address space
def test_too_little_address_space_is_a_sentence_that_says_what_to_do(calotype, picture):
    picture("photo.png", 512, 512)
    refused = 0
    for megabytes in (60, 80, 100, 140, 180, 220):
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
        process = calotype.start("encode", "photo.png", "-o", "a.npy", "--threads", "2", preexec_fn=limit)
        _, errors = process.communicate(timeout=60)
        if process.returncode != 0:
            assert process.returncode == 1 and "-v)" in errors and len(errors.splitlines()) == 1, (megabytes, errors)
            refused += 1
    assert refused > 0
