import numpy
import pytest
from PIL import Image
from safetensors.numpy import load_file
from safetensors import safe_open


def test_report_and_file_agree(calotype, picture):
    picture("photo.png", 64, 48)
    report = calotype.json("encode", "photo.png", "-o", "photo.safetensors")
    (result,) = report["results"]
    assert (result["width"], result["height"]) == (64, 48)
    assert result["latent_shape"] == [1, 16, 6, 8]
    assert report["command"] == "encode" and report["model"] == "embedded"
    assert report["backend"] in ("cpu", "cuda") and report["precision"]
    latents = load_file(calotype.folder / "photo.safetensors")["latents"]
    assert latents.shape == (1, 16, 6, 8) and latents.dtype == numpy.float32
    with safe_open(calotype.folder / "photo.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["latent_space"] == report["latent_space"]
    assert (metadata["image_width"], metadata["image_height"]) == ("64", "48")


def test_people_get_one_line(calotype, picture):
    run = calotype("encode", picture(), "-o", "a.npy")
    assert run.stdout.startswith("photo.png -> a.npy: 64x48, latents [1, 16, 6, 8], ")
    assert len(run.stdout.splitlines()) == 1


def test_quiet_says_nothing(calotype, picture):
    run = calotype("encode", picture(), "-o", "a.npy", "--quiet")
    assert run.stdout == run.stderr == ""


def test_every_container_and_layout_holds_the_same_latents(calotype, picture):
    picture()
    calotype("encode", "photo.png", "-o", "a.npy")
    calotype("encode", "photo.png", "-o", "a.safetensors")
    calotype("encode", "photo.png", "-o", "nhwc.npy", "--layout", "nhwc")
    a = numpy.load(calotype.folder / "a.npy")
    assert a.shape == (1, 16, 6, 8)
    assert numpy.array_equal(a, load_file(calotype.folder / "a.safetensors")["latents"])
    assert numpy.array_equal(a, numpy.load(calotype.folder / "nhwc.npy").transpose(0, 3, 1, 2))


def test_dtype_rounds_the_latents(calotype, picture):
    picture()
    calotype("encode", "photo.png", "-o", "a.npy")
    calotype("encode", "photo.png", "-o", "half.npy", "--dtype", "f16")
    a = numpy.load(calotype.folder / "a.npy")
    half = numpy.load(calotype.folder / "half.npy")
    assert half.dtype == numpy.float16 and numpy.array_equal(half, a.astype(numpy.float16))
    report = calotype.json("encode", "photo.png", "-o", "a.safetensors", "--dtype", "bf16")
    assert report["dtype"] == "BF16"


def test_moments_unscaled_and_latents_fit_together(calotype, picture):
    picture()
    config = calotype.json("info")["config"]
    for name, option in {"scaled": [], "raw": ["--unscaled"], "moments": ["--moments"]}.items():
        calotype("encode", "photo.png", "-o", f"{name}.npy", *option)
    scaled, raw, moments = (numpy.load(calotype.folder / f"{n}.npy") for n in ("scaled", "raw", "moments"))
    assert moments.shape == (1, 32, 6, 8)
    assert numpy.array_equal(moments[:, :16], raw)
    assert moments[:, 16:].min() >= -30 and moments[:, 16:].max() <= 20
    wanted = (raw.astype(numpy.float64) - config["shift_factor"]) * config["scaling_factor"]
    assert numpy.abs(scaled - wanted).max() < 1e-5


def test_comfy_latents_are_unscaled_and_marked(calotype, picture):
    picture()
    calotype("encode", "photo.png", "-o", "a.latent")
    calotype("encode", "photo.png", "-o", "raw.npy", "--unscaled")
    tensors = load_file(calotype.folder / "a.latent")
    assert tensors["latent_format_version_0"].shape == (0,)
    assert numpy.array_equal(tensors["latent_tensor"], numpy.load(calotype.folder / "raw.npy"))


def noise_of(calotype, name, seed):
    calotype("encode", name, "-o", "moments.npy", "--moments")
    calotype("encode", name, "-o", "sample.npy", "--sample", "--seed", seed, "--unscaled")
    moments = numpy.load(calotype.folder / "moments.npy").astype(numpy.float64)
    sample = numpy.load(calotype.folder / "sample.npy")
    return (sample - moments[:, :16]) / numpy.exp(moments[:, 16:] / 2)


def test_a_seed_gives_every_picture_the_same_normal_noise(calotype, picture):
    picture("a.png", 128, 96, seed=1), picture("b.png", 128, 96, seed=2)
    a, b, other = noise_of(calotype, "a.png", 7), noise_of(calotype, "b.png", 7), noise_of(calotype, "a.png", 8)
    assert numpy.abs(a - b).max() < 0.02
    assert numpy.abs(a - other).max() > 1
    assert abs(a.mean()) < 0.1 and abs(a.std() - 1) < 0.1


def test_the_noise_of_a_picture_does_not_depend_on_the_others(calotype, picture):
    picture("a.png", seed=1), picture("b.png", seed=2)
    (calotype.folder / "both").mkdir()
    calotype("encode", "a.png", "b.png", "-o", "both/", "--format", "npy", "--sample", "--seed", "3")
    calotype("encode", "b.png", "-o", "b.npy", "--sample", "--seed", "3")
    assert (calotype.folder / "both/b.npy").read_bytes() == (calotype.folder / "b.npy").read_bytes()


def test_resize_and_odd_sizes(calotype, picture):
    picture("odd.png", 50, 37)
    report = calotype.json("encode", "odd.png", "-o", "odd.safetensors")
    assert report["results"][0]["latent_shape"] == [1, 16, 5, 7]
    calotype("decode", "odd.safetensors", "-o", "back.png")
    assert Image.open(calotype.folder / "back.png").size == (50, 37)
    report = calotype.json("encode", "odd.png", "-o", "odd.safetensors", "--resize", "100x20")
    assert (report["results"][0]["width"], report["results"][0]["height"]) == (100, 20)


def test_transparent_pixels_are_laid_over_the_background(calotype):
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    clear.save(calotype.folder / "clear.png")
    for colour in ("white", "black", "#ff8000"):
        Image.new("RGB", (16, 16), colour).save(calotype.folder / "solid.png")
        calotype("encode", "solid.png", "-o", "solid.npy")
        calotype("encode", "clear.png", "-o", "clear.npy", "--background", colour)
        assert (calotype.folder / "clear.npy").read_bytes() == (calotype.folder / "solid.npy").read_bytes()


def test_several_pictures_go_to_a_folder(calotype, picture):
    picture("a.png", seed=1), picture("b.png", 32, 32, seed=2)
    (calotype.folder / "out").mkdir()
    report = calotype.json("encode", "a.png", "b.png", "-o", "out")
    assert [r["output"] for r in report["results"]] == ["out/a.safetensors", "out/b.safetensors"]
    assert calotype.files() == ["a.png", "b.png", "out/a.safetensors", "out/b.safetensors"]


def test_an_array_of_pictures_gives_one_array_of_latents(calotype):
    images = numpy.random.default_rng(1).uniform(-1, 1, (3, 16, 24, 3)).astype(numpy.float32)
    numpy.save(calotype.folder / "images.npy", images)
    numpy.save(calotype.folder / "second.npy", images[1:2])
    calotype("encode", "images.npy", "-o", "all.npy")
    calotype("encode", "second.npy", "-o", "one.npy")
    everything = numpy.load(calotype.folder / "all.npy")
    assert everything.shape == (3, 16, 2, 3)
    assert numpy.array_equal(everything[1:2], numpy.load(calotype.folder / "one.npy"))


def test_pictures_that_cannot_be_read_cost_the_others_nothing(calotype, picture):
    picture("good.png")
    (calotype.folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    (calotype.folder / "out").mkdir()
    run = calotype("encode", "none.png", "bad.png", "good.png", "-o", "out/", "--quiet", code=1)
    errors = run.stderr.splitlines()
    assert len(errors) == 2 and "none.png" in errors[0] and "bad.png" in errors[1]
    assert [f for f in calotype.files() if f.startswith("out")] == ["out/good.safetensors"]


def test_threads_and_backends_agree(calotype, picture):
    picture("tiny.png", 16, 16)
    for name, options in {"1": ["--threads", 1], "3": ["--threads", 3], "reference": ["--backend", "reference"]}.items():
        calotype("encode", "tiny.png", "-o", f"{name}.npy", *options)
    assert (calotype.folder / "1.npy").read_bytes() == (calotype.folder / "3.npy").read_bytes()
    reference = numpy.load(calotype.folder / "reference.npy").astype(numpy.float64)
    error = numpy.load(calotype.folder / "1.npy") - reference
    assert numpy.sqrt((error**2).mean() / (reference**2).mean()) < 1e-5


@pytest.mark.parametrize("suffix", ["png", "txt", ""])
def test_unknown_suffixes_of_latents_are_refused_before_any_work(calotype, picture, suffix):
    line = calotype.error("encode", picture(), "-o", f"out.{suffix}".rstrip("."), code=2)
    assert "safetensors" in line
