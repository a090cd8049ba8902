import json

import numpy
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file


def pixels(calotype, name):
    return numpy.asarray(Image.open(calotype.folder / name))


def test_pictures_are_the_rounded_values(calotype, latents):
    latents()
    report = calotype.json("decode", "latents.npy", "-o", "a.png")
    assert report["results"][0]["outputs"] == ["a.png"]
    assert (report["results"][0]["width"], report["results"][0]["height"]) == (48, 32)
    calotype("decode", "latents.npy", "-o", "a.npy")
    values = numpy.load(calotype.folder / "a.npy")
    assert values.shape == (1, 32, 48, 3) and values.dtype == numpy.float32
    wanted = numpy.floor(255 * numpy.clip(values[0].astype(numpy.float64) / 2 + 0.5, 0, 1) + 0.5)
    assert numpy.abs(pixels(calotype, "a.png") - wanted).max() <= 1
    assert (pixels(calotype, "a.png") != wanted).mean() < 1e-3


@pytest.mark.parametrize(
    "name, options, kind",
    [
        ("a.jpg", [], "JPEG"),
        ("a.jpeg", ["--quality", "60"], "JPEG"),
        ("a.webp", [], "WEBP"),
        ("a.png", ["--bit-depth", "16"], "PNG"),
        ("a.dat", ["--format", "webp"], "WEBP"),
    ],
)
def test_formats(calotype, latents, name, options, kind):
    latents()
    calotype("decode", "latents.npy", "-o", name, *options)
    image = Image.open(calotype.folder / name)
    assert image.format == kind and image.size == (48, 32)


def test_lower_quality_is_smaller(calotype, latents):
    latents()
    for quality in (20, 95):
        calotype("decode", "latents.npy", "-o", f"{quality}.jpg", "--quality", quality)
    assert (calotype.folder / "20.jpg").stat().st_size < (calotype.folder / "95.jpg").stat().st_size


def test_the_way_in_does_not_matter(calotype, latents):
    values = latents()
    calotype("decode", "latents.npy", "-o", "a.png")
    wanted = (calotype.folder / "a.png").read_bytes()
    save_file({"latents": values}, calotype.folder / "b.safetensors")
    numpy.save(calotype.folder / "nhwc.npy", values.transpose(0, 2, 3, 1))
    config = calotype.json("info")["config"]
    z = (values.astype(numpy.float64) / config["scaling_factor"] + config["shift_factor"]).astype(numpy.float32)
    numpy.save(calotype.folder / "z.npy", z)
    save_file({"latent_tensor": z, "latent_format_version_0": numpy.zeros(0, numpy.float32)}, calotype.folder / "c.latent")
    for args in (["b.safetensors"], ["nhwc.npy", "--layout", "nhwc"]):
        calotype("decode", *args, "-o", "b.png")
        assert (calotype.folder / "b.png").read_bytes() == wanted
    for args in (["z.npy", "--unscaled"], ["c.latent"]):
        calotype("decode", *args, "-o", "b.png")
        assert numpy.abs(pixels(calotype, "b.png").astype(int) - pixels(calotype, "a.png")).max() <= 1


def test_arrays_in_fortran_order_are_read(calotype, latents):
    values = latents(height=4, width=6)
    numpy.save(calotype.folder / "fortran.npy", numpy.asfortranarray(values))
    assert b"'fortran_order': True" in (calotype.folder / "fortran.npy").read_bytes()
    for name in ("latents", "fortran"):
        calotype("decode", f"{name}.npy", "-o", f"{name}.png")
    assert (calotype.folder / "latents.png").read_bytes() == (calotype.folder / "fortran.png").read_bytes()
    image = numpy.linspace(-1, 1, 48 * 64 * 3, dtype=numpy.float32).reshape(48, 64, 3)
    for name, order in (("c", image), ("f", numpy.asfortranarray(image))):
        numpy.save(calotype.folder / f"{name}.npy", order)
        calotype("encode", f"{name}.npy", "-o", f"{name}.safetensors")
    assert (calotype.folder / "c.safetensors").read_bytes() == (calotype.folder / "f.safetensors").read_bytes()


def test_moments_decode_to_the_mode(calotype, picture):
    picture()
    calotype("encode", "photo.png", "-o", "moments.safetensors", "--moments")
    calotype("encode", "photo.png", "-o", "raw.safetensors", "--unscaled")
    calotype("decode", "moments.safetensors", "-o", "a.png")
    calotype("decode", "raw.safetensors", "-o", "b.png")
    assert (calotype.folder / "a.png").read_bytes() == (calotype.folder / "b.png").read_bytes()


def test_packed_tokens_need_the_size_of_the_picture(calotype, latents):
    values = latents(height=4, width=6)
    packed = values.reshape(1, 16, 2, 2, 3, 2).transpose(0, 2, 4, 1, 3, 5).reshape(1, 6, 64)
    numpy.save(calotype.folder / "packed.npy", packed)
    assert "--size" in calotype.error("decode", "packed.npy", "-o", "b.png", code=1)
    calotype("decode", "packed.npy", "-o", "b.png", "--size", "48x32")
    calotype("decode", "latents.npy", "-o", "a.png")
    assert (calotype.folder / "b.png").read_bytes() == (calotype.folder / "a.png").read_bytes()


@pytest.mark.parametrize("size, wanted", [("61x45", (48, 32)), ("50x47", (48, 32)), ("33x17", (33, 17)), ("47x32", (47, 32))])
def test_the_picture_of_packed_tokens_is_that_of_their_grid(calotype, latents, size, wanted):
    packed = latents(height=4, width=6).reshape(1, 16, 2, 2, 3, 2).transpose(0, 2, 4, 1, 3, 5).reshape(1, 6, 64)
    numpy.save(calotype.folder / "packed.npy", packed)
    calotype("decode", "latents.npy", "-o", "whole.png")
    calotype("decode", "packed.npy", "-o", "part.png", "--size", size)
    part = pixels(calotype, "part.png")
    assert part.shape[1::-1] == wanted
    assert numpy.array_equal(part, pixels(calotype, "whole.png")[: wanted[1], : wanted[0]])


def test_size_crops_to_the_top_left(calotype, latents):
    latents()
    calotype("decode", "latents.npy", "-o", "whole.png")
    calotype("decode", "latents.npy", "-o", "part.png", "--size", "43x30")
    assert numpy.array_equal(pixels(calotype, "part.png"), pixels(calotype, "whole.png")[:30, :43])
    for size in ("49x32", "40x32", "48x24", "100x100"):
        line = calotype.error("decode", "latents.npy", "-o", "no.png", "--size", size, code=2)
        assert "48x32" in line and size in line


def test_a_batch_gives_numbered_pictures(calotype, latents):
    values = latents(batch=3)
    report = calotype.json("decode", "latents.npy", "-o", "out.png")
    names = ["out-0001.png", "out-0002.png", "out-0003.png"]
    assert report["results"][0]["outputs"] == names and report["results"][0]["batch"] == 3
    numpy.save(calotype.folder / "second.npy", values[1:2])
    calotype("decode", "second.npy", "-o", "second.png")
    assert (calotype.folder / "second.png").read_bytes() == (calotype.folder / "out-0002.png").read_bytes()
    assert "exists already" in calotype.error("decode", "latents.npy", "-o", "out.png", code=1)
    calotype("decode", "latents.npy", "-o", "out.png", "--force")


@pytest.mark.parametrize("name", ["all.npy", "all.safetensors"])
def test_arrays_hold_the_whole_batch(calotype, latents, name):
    latents(batch=3)
    calotype("decode", "latents.npy", "-o", name)
    path = calotype.folder / name
    images = numpy.load(path) if name.endswith("npy") else load_file(path)["image"]
    assert images.shape == (3, 32, 48, 3)


def test_a_batch_does_not_fit_into_standard_output_as_png(calotype, latents):
    latents(batch=2)
    assert "2 pictures" in calotype.error("decode", "latents.npy", "-o", "-", code=2)
    run = calotype("decode", "latents.npy", "-o", "-", "--format", "npy", text=False)
    assert run.stdout.startswith(b"\x93NUMPY")


def test_pipes(calotype, picture):
    path = calotype.folder / picture("photo.png", 50, 37)
    calotype("encode", "photo.png", "-o", "a.safetensors")
    calotype("decode", "a.safetensors", "-o", "a.png")
    encoded = calotype("encode", "-", "-o", "-", text=False, input=path.read_bytes())
    assert encoded.stdout == (calotype.folder / "a.safetensors").read_bytes()
    assert b"standard input -> standard output: 50x37" in encoded.stderr
    decoded = calotype("decode", "-", "-o", "-", "--json", text=False, input=encoded.stdout)
    assert decoded.stdout == (calotype.folder / "a.png").read_bytes()
    assert json.loads(decoded.stderr)["results"][0]["outputs"] == ["-"]


def test_standard_error_holds_json_or_a_sentence(calotype, latents):
    latents(height=16, width=16)
    run = calotype("decode", "latents.npy", "-o", "-", "--json", "--backend", "reference", "--threads", 1, text=False)
    assert json.loads(run.stderr)["results"][0]["outputs"] == ["-"]
    (calotype.folder / "bad.npy").write_bytes(b"no latents")
    assert "bad.npy" in calotype.error("decode", "bad.npy", "-o", "-", "--json", code=1)
    assert "memory" in calotype.error("decode", "latents.npy", "-o", "-", "--json", "--memory", "1M", code=1)


def test_the_memory_that_is_allowed_does_not_change_a_byte(calotype, latents):
    latents(height=40, width=40)
    minimum = calotype.json("info", "--size", "320x320")["minimum_bytes"]
    (calotype.folder / "scratch").mkdir()
    calotype("decode", "latents.npy", "-o", "free.npy")
    calotype("decode", "latents.npy", "-o", "tight.npy", "--memory", minimum, "--scratch", "scratch")
    assert (calotype.folder / "free.npy").read_bytes() == (calotype.folder / "tight.npy").read_bytes()
    assert list((calotype.folder / "scratch").iterdir()) == []
    line = calotype.error("decode", "latents.npy", "-o", "no.npy", "--memory", "1M", code=1)
    assert "1048576" in line and str(minimum) in line


def other_space(calotype):
    """The embedded model with another scaling factor: another latent space."""
    calotype("convert", "-o", "other/", "-q")
    config = json.loads((calotype.folder / "other/config.json").read_text())
    config["scaling_factor"] *= 2
    (calotype.folder / "other/config.json").write_text(json.dumps(config))
    return "other"


def test_latents_of_another_space_are_refused_without_force(calotype, picture):
    calotype("encode", picture(), "-o", "a.safetensors")
    other = other_space(calotype)
    line = calotype.error("decode", "a.safetensors", "-o", "a.png", "--model", other, code=1)
    assert "another latent space" in line and "embedded" in line and "--force" in line
    assert "a.png" not in calotype.files()
    calotype("decode", "a.safetensors", "-o", "a.png", "--model", other, "--force")
    assert "a.png" in calotype.files()


@pytest.mark.parametrize(
    "values, words",
    [
        (numpy.zeros((1, 4, 4, 4), numpy.float32), ["[1, 4, 4, 4]"]),
        (numpy.zeros((16, 16), numpy.float32), ["[16, 16]"]),
        (numpy.zeros((1, 16, 0, 4), numpy.float32), ["[1, 16, 0, 4]"]),
        (numpy.zeros((1, 16, 4, 4), numpy.int32), ["I32"]),
        (numpy.full((1, 16, 4, 4), numpy.nan, numpy.float32), ["NaN"]),
        (numpy.full((1, 16, 4, 4), numpy.inf, numpy.float32), ["inf"]),
    ],
)
def test_latents_that_cannot_be_are_refused(calotype, values, words):
    numpy.save(calotype.folder / "bad.npy", values)
    line = calotype.error("decode", "bad.npy", "-o", "no.png", code=1)
    assert "bad.npy" in line
    for word in words:
        assert word.lower() in line.lower()
    assert calotype.files() == ["bad.npy"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "GIF", "BMP"])
def test_pictures_are_no_latents(calotype, kind):
    Image.new("RGB", (8, 8)).save(calotype.folder / "picture", kind)
    line = calotype.error("decode", "picture", "-o", "a.png", code=1)
    assert f"picture: is a {kind} picture; latents are expected" in line


def test_a_truncated_file_is_refused(calotype, latents):
    latents()
    data = (calotype.folder / "latents.npy").read_bytes()
    (calotype.folder / "short.npy").write_bytes(data[:-10])
    assert "short.npy" in calotype.error("decode", "short.npy", "-o", "no.png", code=1)


def test_the_size_that_a_file_records_must_fit(calotype, latents):
    values = latents()
    for width, height in ((480, 320), (8, 8)):
        metadata = {"image_width": str(width), "image_height": str(height)}
        save_file({"latents": values}, calotype.folder / "odd.safetensors", metadata)
        line = calotype.error("decode", "odd.safetensors", "-o", "no.png", code=1)
        assert "odd.safetensors" in line and f"{width}" in line
