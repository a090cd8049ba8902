import numpy
from PIL import Image


def psnr(a, b):
    error = numpy.asarray(a, numpy.float64) - numpy.asarray(b, numpy.float64)
    return 10 * numpy.log10(255**2 / (error**2).mean())


def test_figures_are_those_of_the_pictures(calotype, root):
    photo = root / "models/photos/astronaut.png"
    report = calotype.json("roundtrip", photo, "-o", "back.png", "--resize", "200x180")
    (result,) = report["results"]
    assert (result["width"], result["height"]) == (200, 180)
    calotype("encode", photo, "-o", "a.safetensors", "--resize", "200x180")
    calotype("decode", "a.safetensors", "-o", "a.png")
    assert (calotype.folder / "a.png").read_bytes() == (calotype.folder / "back.png").read_bytes()
    assert result["psnr"] > 25 and 0.7 < result["ssim"] < 1
    assert result["encode_s"] > 0 and result["decode_s"] > 0
    assert abs(result["decode_megapixels_per_s"] * result["decode_s"] - 0.036) < 1e-9
    assert report["mean"] == {"psnr": result["psnr"], "ssim": result["ssim"]}


def test_psnr_is_of_the_8_bit_pictures(calotype, picture):
    picture()
    result = calotype.json("roundtrip", "photo.png", "-o", "back.png")["results"][0]
    original, back = Image.open(calotype.folder / "photo.png"), Image.open(calotype.folder / "back.png")
    assert abs(result["psnr"] - psnr(original, back)) < 1e-6


def test_comparison_shows_three_pictures_side_by_side(calotype, picture):
    picture("photo.png", 64, 48)
    calotype("roundtrip", "photo.png", "--compare", "compare.png", "-o", "back.png")
    compare = numpy.asarray(Image.open(calotype.folder / "compare.png"))
    assert compare.shape[1] >= 3 * 64 and compare.shape[0] >= 48

    def contains(part):
        height, width = part.shape[:2]
        return any(
            numpy.array_equal(compare[y : y + height, x : x + width], part)
            for y in range(compare.shape[0] - height + 1)
            for x in range(compare.shape[1] - width + 1)
        )

    assert contains(numpy.asarray(Image.open(calotype.folder / "photo.png")))
    assert contains(numpy.asarray(Image.open(calotype.folder / "back.png")))


def test_amplification_changes_the_comparison(calotype, picture):
    picture()
    for factor in (1, 20):
        calotype("roundtrip", "photo.png", "--compare", f"{factor}.png", "--amplify", factor)
    assert (calotype.folder / "1.png").read_bytes() != (calotype.folder / "20.png").read_bytes()


def test_people_read_figures_and_files(calotype, picture):
    run = calotype("roundtrip", picture(), "-o", "back.png", "--compare", "compare.png")
    assert "photo.png: 64x48, PSNR " in run.stdout and " dB, SSIM 0." in run.stdout
    assert "megapixels/s" in run.stdout and "back.png" in run.stdout and "compare.png" in run.stdout


def test_several_pictures_have_a_mean(calotype, picture):
    picture("a.png", seed=1), picture("b.png", seed=2)
    (calotype.folder / "out").mkdir()
    report = calotype.json("roundtrip", "a.png", "b.png", "--compare", "out/", "-o", "out/")
    wanted = sum(r["psnr"] for r in report["results"]) / 2
    assert abs(report["mean"]["psnr"] - wanted) < 1e-9
    assert [f for f in calotype.files() if f.startswith("out")] == [
        "out/a-compare.png", "out/a.png", "out/b-compare.png", "out/b.png"]
    assert "mean of 2" in calotype("roundtrip", "a.png", "b.png").stdout


def test_the_result_goes_to_standard_output(calotype, picture):
    run = calotype("roundtrip", picture(), "-o", "-", text=False)
    assert run.stdout.startswith(b"\x89PNG") and b"PSNR" in run.stderr


def test_sampling_changes_the_result(calotype, picture):
    picture()
    calotype("roundtrip", "photo.png", "-o", "mode.png")
    calotype("roundtrip", "photo.png", "-o", "sample.png", "--sample", "--seed", "5")
    calotype("roundtrip", "photo.png", "-o", "again.png", "--sample", "--seed", "5")
    read = {n: (calotype.folder / f"{n}.png").read_bytes() for n in ("mode", "sample", "again")}
    assert read["sample"] == read["again"] != read["mode"]


def test_an_array_of_several_pictures_is_refused(calotype):
    numpy.save(calotype.folder / "two.npy", numpy.zeros((2, 16, 16, 3), numpy.float32))
    assert "2 pictures" in calotype.error("roundtrip", "two.npy", code=1)
