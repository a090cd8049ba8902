"""calotype.AutoencoderKL: what goes in and out."""

import io
import json
import pathlib
import subprocess
import sys

import calotype
import numpy as np
import pytest
import torch
from PIL import Image


# ---- The model ----


def test_the_embedded_model_says_what_it_is(vae):
    assert vae.source == "embedded" and vae.has_encoder and vae.has_decoder
    assert (vae.channels, vae.spatial_factor) == (16, 8)
    assert vae.config["latent_channels"] == 16 and vae.config["_class_name"] == "AutoencoderKL"
    assert vae.scaling_factor == pytest.approx(0.5978717)
    assert vae.shift_factor == pytest.approx(-0.1786166)
    assert len(vae.latent_space_hash()) == 64
    assert "embedded" in repr(vae)
    assert calotype.list_models()[0].container == "embedded"
    plan = vae.plan("decode", 1024, 1024)
    assert plan.flop > 1e11 and plan.peak_bytes > 1024 * 1024 * 12
    assert vae.plan("decode", 1024, 1024, batch=2).flop == 2 * plan.flop


def test_models_come_from_folders_and_files(vae, latents, expected, tmp_path):
    mini = pathlib.Path(__file__).parents[2] / "models" / "mini"
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "vae").symlink_to(mini)
    weights = mini / "diffusion_pytorch_model.safetensors"
    sources = [(mini, None), (weights, None), (tmp_path / "repo", "vae"), (str(tmp_path / "repo"), None)]
    for path, subfolder in sources:
        model = calotype.AutoencoderKL.from_pretrained(path, subfolder=subfolder)
        np.testing.assert_array_equal(model.decode(latents, output="np", clamp=False), expected)
    # Away from its config.json, a file of 16 latent channels is taken for FLUX.1's.
    bare = tmp_path / "bare.safetensors"
    bare.symlink_to(weights)
    model = calotype.AutoencoderKL.from_pretrained(bare)
    assert model.config_inferred and model.scaling_factor == pytest.approx(0.3611)


def test_missing_models_are_named(tmp_path):
    with pytest.raises(calotype.NotFoundError, match="/nowhere/at/all") as raised:
        calotype.AutoencoderKL.from_pretrained("/nowhere/at/all")
    assert isinstance(raised.value, FileNotFoundError)
    with pytest.raises(calotype.NotFoundError, match="no subfolder 'vae'"):
        calotype.AutoencoderKL.from_pretrained(tmp_path, subfolder="vae")
    with pytest.raises(ValueError, match="subfolder"):
        calotype.AutoencoderKL.from_pretrained(subfolder="vae")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(calotype.Error):
        calotype.AutoencoderKL.from_pretrained(tmp_path)


def fake_hub(monkeypatch, tmp_path, fetch):
    hub = type(sys)("huggingface_hub")
    hub.snapshot_download = fetch
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)


def test_repos_are_fetched_where_they_are_not_in_the_cache(monkeypatch, tmp_path, latents, expected):
    mini = pathlib.Path(__file__).parents[2] / "models" / "mini"
    asked = []

    def fetch(repo, **options):
        asked.append((repo, options["allow_patterns"]))
        snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "vae").symlink_to(mini)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("abc")
        return str(snapshot)

    fake_hub(monkeypatch, tmp_path, fetch)
    with pytest.raises(calotype.NotFoundError, match="hf download some/model"):
        calotype.AutoencoderKL.from_pretrained("some/model", subfolder="vae", local_files_only=True)
    for _ in range(2):
        model = calotype.AutoencoderKL.from_pretrained("some/model", subfolder="vae")
        np.testing.assert_array_equal(model.decode(latents, output="np", clamp=False), expected)
    assert asked == [("some/model", ["vae/*"])], "a repo in the cache was fetched again"
    assert calotype.AutoencoderKL.from_pretrained("some/model").channels == 16


def test_what_is_half_in_the_cache_is_fetched(monkeypatch, tmp_path):
    mini = pathlib.Path(__file__).parents[2] / "models" / "mini"
    weights = mini / "diffusion_pytorch_model.safetensors"
    snapshot = tmp_path / "cache" / "models--some--model" / "snapshots" / "abc"
    (snapshot / "vae").mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "vae" / "config.json").symlink_to(mini / "config.json")
    asked = []

    def fetch(repo, **options):
        asked.append((options["cache_dir"], options["force_download"]))
        for name in ("diffusion_pytorch_model.safetensors",):
            (snapshot / "vae" / name).unlink(missing_ok=True)
            (snapshot / "vae" / name).symlink_to(weights)
        return str(snapshot)

    fake_hub(monkeypatch, tmp_path, fetch)
    load = lambda **more: calotype.AutoencoderKL.from_pretrained(  # noqa: E731
        "some/model", cache_dir=str(tmp_path / "cache"), **more
    )
    for subfolder in (None, "vae"):
        with pytest.raises(calotype.NotFoundError, match="not whole.*hf download some/model"):
            load(local_files_only=True, subfolder=subfolder)
    assert not asked
    # A link whose file is gone is no file; nor are two shards of three.
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(calotype.NotFoundError):
        load(local_files_only=True)
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    shards = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = snapshot / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {s: s for s in shards}}))
    for shard in shards[:2]:
        (snapshot / "vae" / shard).symlink_to(weights)
    with pytest.raises(calotype.NotFoundError):
        load(local_files_only=True)
    for name in (index.name, *shards[:2]):
        (snapshot / "vae" / name).unlink()
    assert load(subfolder="vae").channels == load().channels == 16
    assert asked == [(tmp_path / "cache", False)]
    assert load(force_download=True).channels == 16
    assert asked[1:] == [(tmp_path / "cache", True)]
    # An autoencoder at the root of its repo.
    (snapshot / "vae").rename(tmp_path / "moved")
    for file in (tmp_path / "moved").iterdir():
        file.rename(snapshot / file.name)
    assert load().channels == 16 and len(asked) == 2


def test_a_repo_that_cannot_be_fetched_is_not_found(monkeypatch, tmp_path):
    def fetch(repo, **options):
        raise OSError("the network is down")

    fake_hub(monkeypatch, tmp_path, fetch)
    with pytest.raises(calotype.NotFoundError, match="some/model.*network is down"):
        calotype.AutoencoderKL.from_pretrained("some/model", subfolder="vae")


def test_weights_in_memory_make_the_same_model(latents, expected):
    import safetensors.numpy
    import safetensors.torch

    path = pathlib.Path(__file__).parents[2] / "models/mini/diffusion_pytorch_model.safetensors"
    config = calotype.AutoencoderKL.from_pretrained().config
    tensors = safetensors.torch.load_file(path)  # bfloat16
    model = calotype.AutoencoderKL.from_tensors(tensors, config, source="a dict")
    tensors.clear()
    np.testing.assert_array_equal(model.decode(latents, output="np", clamp=False), expected)
    assert model.source == "a dict"
    tensors = {n: t.float().numpy() for n, t in safetensors.torch.load_file(path).items()}
    model = calotype.AutoencoderKL.from_tensors(tensors, config)
    np.testing.assert_array_equal(model.decode(latents, output="np", clamp=False), expected)
    tensors.pop("decoder.conv_in.weight")
    with pytest.raises(calotype.InvalidDataError, match="decoder.conv_in.weight"):
        calotype.AutoencoderKL.from_tensors(tensors, config)
    tensors["decoder.conv_in.weight"] = np.zeros((3, 128, 16, 3), np.float32).T
    with pytest.raises(calotype.Error, match="decoder.conv_in.weight.*contiguous"):
        calotype.AutoencoderKL.from_tensors(tensors, config)


# ---- What comes out ----


def test_outputs_are_of_the_forms_that_the_ecosystem_knows(vae, latents, expected):
    array = vae.decode(latents, output="np")
    assert array.shape == (2, 48, 40, 3) and array.dtype == np.float32
    np.testing.assert_allclose(array, np.clip(expected / 2 + 0.5, 0, 1), rtol=0, atol=1e-7)
    tensor = vae.decode(latents, output="pt")
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (2, 3, 48, 40)
    assert torch.equal(tensor, torch.from_numpy(array).movedim(-1, 1))
    raw = vae.decode(latents, output="pt", clamp=False)
    assert raw.min() < 0 and torch.equal(raw, torch.from_numpy(expected).movedim(-1, 1))
    pictures = vae.decode(latents, output="pil")
    assert [p.size for p in pictures] == [(40, 48)] * 2
    np.testing.assert_array_equal(np.asarray(pictures[1]), np.round(array[1] * 255))
    one = vae.decode(latents[0])
    assert isinstance(one, Image.Image) and one.mode == "RGB"


def test_outputs_own_their_memory_and_lend_it(vae, latents):
    array = vae.decode(latents, output="np")
    assert array.flags.writeable and array.flags.c_contiguous
    assert torch.from_dlpack(array).data_ptr() == array.ctypes.data
    tensor = vae.decode(latents, output="pt")
    assert tensor.is_contiguous(memory_format=torch.channels_last), "the pixels were moved"
    z = vae.encode(np.zeros((16, 16, 3), np.uint8))
    assert z.flags.writeable and z.flags.c_contiguous


def test_encoding_gives_numpy_for_numpy_and_torch_for_torch(vae, photo):
    pixels = np.asarray(photo)[:64, :48]
    as_numpy, as_torch = vae.encode(pixels), vae.encode(torch.tensor(pixels))
    assert isinstance(as_numpy, np.ndarray) and as_numpy.shape == (1, 16, 8, 6)
    assert isinstance(as_torch, torch.Tensor) and np.array_equal(as_torch.numpy(), as_numpy)
    assert isinstance(vae.encode(pixels, output="pt"), torch.Tensor)
    assert isinstance(vae.encode(torch.tensor(pixels), output="np"), np.ndarray)


# ---- What goes in ----


def test_pictures_of_all_forms_encode_alike(vae, photo):
    crop = photo.crop((100, 60, 164, 108))
    pixels = np.asarray(crop)
    want = vae.encode(crop)
    assert want.shape == (1, 16, 6, 8)
    floats = pixels.astype(np.float32) / 255
    signed = floats * 2 - 1
    for image, options in [
        (pixels, {}),
        (pixels[None], {}),
        (pixels.transpose(2, 0, 1), {}),
        (floats, {}),
        (floats[None], {}),
        (floats.transpose(2, 0, 1), {}),
        (floats.astype(np.float64), {}),
        (signed, {"value_range": (-1, 1)}),
        (torch.tensor(pixels), {}),
        (torch.tensor(floats).movedim(-1, 0)[None], {}),
        (torch.tensor(floats).movedim(-1, 0), {"layout": "NCHW"}),
        ([crop], {}),
    ]:
        np.testing.assert_allclose(np.asarray(vae.encode(image, **options)), want, rtol=0, atol=2e-5)
    both = vae.encode([crop, crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    np.testing.assert_allclose(both[:1], want, rtol=0, atol=2e-6)
    assert both.shape[0] == 2 and not np.allclose(both[1], both[0], atol=0.1)


def test_pil_pictures_are_read_upright_and_over_white(vae):
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "png", exif=exif)
    np.testing.assert_array_equal(vae.encode(Image.open(file)), vae.encode(upright))
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    white = Image.new("L", (16, 16), 255)
    np.testing.assert_array_equal(vae.encode(clear), vae.encode(white))
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([255] * 768)
    np.testing.assert_array_equal(vae.encode(palette), vae.encode(white))


def test_16_bits_are_read_as_the_program_reads_them(vae, program, tmp_path):
    y, x = np.mgrid[0:16, 0:24]
    grey = (y * 24 + x) * 65535 // 383
    grey = grey.astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    picture = Image.open(tmp_path / "grey.png")
    assert picture.mode == "I;16"
    out = tmp_path / "z.npy"
    subprocess.run([program, "encode", "-q", tmp_path / "grey.png", "-o", out], check=True)
    want = np.load(out)
    np.testing.assert_allclose(vae.encode(picture), want, rtol=0, atol=2e-5)
    big_endian = Image.frombytes("I;16B", (24, 16), grey.astype(">u2").tobytes())
    np.testing.assert_array_equal(vae.encode(big_endian), vae.encode(picture))
    # Not the nearest of 8 bits: the low byte alone.
    dark = Image.fromarray(np.where(x > 11, 255, 0).astype(np.uint16))
    assert not np.allclose(vae.encode(dark), vae.encode(Image.new("L", (24, 16))), atol=1e-4)
    # A grey that stands for transparency, and a batch with a picture of 8 bits.
    clear = Image.fromarray(np.full((16, 24), 7, np.uint16))
    clear.info["transparency"] = 7
    white = Image.new("RGB", (24, 16), "white")
    both = vae.encode([clear, white])
    np.testing.assert_allclose(both[0], both[1], rtol=0, atol=2e-6)


def test_pictures_of_no_known_range_are_refused(vae):
    for mode in ("I", "F"):
        with pytest.raises(ValueError, match=f"the mode {mode}, which does not say what is white"):
            vae.encode(Image.new(mode, (16, 16)))


def test_premultiplied_alpha_is_composed(vae):
    straight = Image.new("RGBA", (16, 16), (255, 0, 0, 51))
    want = vae.encode(straight)
    np.testing.assert_array_equal(vae.encode(straight.convert("RGBa")), want)
    grey = Image.new("LA", (16, 16), (0, 51))
    np.testing.assert_array_equal(vae.encode(grey.convert("La")), vae.encode(grey))
    assert not np.allclose(want, vae.encode(straight.convert("RGB")), atol=0.1)


def test_pictures_of_any_size_are_padded(vae):
    pixels = np.random.default_rng(0).integers(0, 255, (13, 9, 3), dtype=np.uint8)
    padded = np.pad(pixels, ((0, 3), (0, 7), (0, 0)), mode="edge")
    np.testing.assert_array_equal(vae.encode(pixels), vae.encode(padded))


def test_latents_of_all_forms_decode_alike(vae, latents, expected):
    strided = np.zeros((2, 16, 12, 5), np.float32)
    strided[:, :, ::2] = latents
    read_only = latents.copy()
    read_only.flags.writeable = False
    reversed_ = np.ascontiguousarray(latents[:, ::-1, ::-1, ::-1])
    assert reversed_[:, ::-1, ::-1, ::-1].strides[1] < 0
    records = np.zeros(latents.shape, np.dtype([("tag", "u1"), ("z", "<f4")]))
    records["z"] = latents
    t = torch.tensor(latents)
    for form in [
        latents.astype(np.float64),
        latents.astype(">f4"),
        np.asfortranarray(latents),
        strided[:, :, ::2],
        reversed_.copy()[:, ::-1, ::-1, ::-1],  # strides below zero
        records["z"],  # strides that are no multiple of an element
        np.ascontiguousarray(latents.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        read_only,
        t,
        t.double(),
        t.to(memory_format=torch.channels_last),
        torch.tensor(strided)[:, :, ::2],
        t.transpose(2, 3).contiguous().transpose(2, 3),
    ]:
        np.testing.assert_array_equal(vae.decode(form, output="np", clamp=False), expected)
    assert latents.flags.writeable


def test_half_precision_is_widened_exactly(vae, latents):
    t = torch.tensor(latents)
    t[0, 0, 0, :4] = torch.tensor([6e-8, -6e-6, 65504.0, 0.0])  # subnormal, largest
    for dtype in (torch.float16, torch.bfloat16):
        narrow = t.to(dtype)
        want = vae.decode(narrow.float(), output="np", clamp=False)
        np.testing.assert_array_equal(vae.decode(narrow, output="np", clamp=False), want)
    narrow = t.numpy().astype(np.float16)
    np.testing.assert_array_equal(
        vae.decode(narrow, output="np", clamp=False),
        vae.decode(narrow.astype(np.float32), output="np", clamp=False),
    )


def test_what_lies_as_the_network_reads_it_is_not_copied(vae, latents):
    """What the caller changes before the first layer runs is what is computed: it is his memory."""
    other = np.full_like(latents, 0.25)
    want = vae.decode(other, unscaled=True, output="np", clamp=False)

    def decode(z):
        def change(fraction, layer):
            if not changed:
                changed.append(layer)
                z[...] = other if isinstance(z, np.ndarray) else torch.from_numpy(other)

        changed = []
        given = OnlyDlpack(z) if wrap else z
        return vae.decode(given, unscaled=True, output="np", clamp=False, progress=change)

    pixels_last = np.ascontiguousarray(latents.transpose(0, 2, 3, 1))
    for wrap in (False, True):
        np.testing.assert_array_equal(decode(pixels_last.copy().transpose(0, 3, 1, 2)), want)
        tensor = torch.tensor(latents).to(memory_format=torch.channels_last)
        np.testing.assert_array_equal(decode(tensor), want)
    wrap = False
    assert not np.array_equal(decode(latents.copy()), want), "nothing was proven: a copy passes too"


class OnlyDlpack:
    """Another library's array, on a device."""

    def __init__(self, array, device=1):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.device, 0


def test_anything_with_dlpack_goes_in(vae, latents, expected):
    found = vae.decode(OnlyDlpack(latents), output="np", clamp=False)
    np.testing.assert_array_equal(found, expected)


def test_bfloat16_of_other_libraries_goes_in(vae, latents):
    narrow = torch.tensor(latents).bfloat16()
    want = vae.decode(narrow, output="np", clamp=False)
    channels_last = narrow.to(memory_format=torch.channels_last)
    for form in (OnlyDlpack(narrow), OnlyDlpack(channels_last)):
        np.testing.assert_array_equal(vae.decode(form, output="np", clamp=False), want)
    with pytest.raises(ValueError, match="int16|dtype"):
        vae.decode(OnlyDlpack(narrow.view(torch.int16)))


def test_other_devices_are_refused(vae, latents):
    with pytest.raises(ValueError, match=r"latents is on a GPU.*move it to the CPU"):
        vae.decode(OnlyDlpack(latents, 2))  # CUDA, which this machine need not have
    for device in (8, 10):  # Metal, ROCm
        with pytest.raises(ValueError, match=f"device of DLPack type {device}.*move it to the CPU"):
            vae.decode(OnlyDlpack(latents, device))
    with pytest.raises(ValueError, match="on the device meta"):
        vae.decode(torch.empty(1, 16, 2, 2, device="meta"))


def test_other_dtypes_are_refused(vae, latents):
    for dtype in ("int32", "complex64", "bool", "uint8", "int64", "longdouble"):
        with pytest.raises(ValueError, match=f"dtype.*{np.dtype(dtype).name.rstrip('0123456789')}"):
            vae.decode(latents.astype(dtype))
    for dtype in (torch.int32, torch.complex64, torch.bool, torch.int8):
        with pytest.raises(ValueError, match="dtype"):
            vae.decode(torch.tensor(latents).to(dtype))
    for wrong in ("a string", None, object(), {}):
        with pytest.raises(ValueError):
            vae.decode(wrong)


def test_gradients_are_refused(vae):
    with pytest.raises(ValueError, match="requires gradients.*detach"):
        vae.decode(torch.zeros(1, 16, 2, 2, requires_grad=True))


def test_wrong_shapes_are_refused(vae):
    for shape in [(1, 4, 8, 8), (8, 8), (1, 8, 8, 16), (1, 1, 16, 2, 2)]:
        with pytest.raises(ValueError, match="shape"):
            vae.decode(np.zeros(shape, np.float32))
    for shape in [(8, 8), (1, 8, 8, 4), (5, 8, 8)]:
        with pytest.raises(ValueError, match="shape"):
            vae.encode(np.zeros(shape, np.float32))
    with pytest.raises(ValueError):
        vae.decode(np.zeros((1, 16, 0, 2), np.float32))
    with pytest.raises(ValueError, match="not NHWC"):
        vae.encode(np.zeros((3, 8, 8), np.float32), layout="NHWC")
    small, large = Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))
    with pytest.raises(ValueError, match="one size"):
        vae.encode([small, large])


def test_wrong_options_are_refused(vae, latents):
    for options, message in [
        ({"threads": 0}, "threads"),
        ({"memory": "plenty"}, "memory"),
        ({"memory": -1}, "memory"),
        ({"memory": 1.5e9}, 'memory is 1500000000.0; it is a positive whole number of bytes, or a text'),
        ({"memory": 2**70}, "memory"),
        ({"threads": 2.0}, "threads is 2.0; it is a whole number"),
        ({"threads": 2**40}, "threads"),
        ({"device": -1}, "device is -1"),
        ({"progress": 3}, "progress is 3; it is a function"),
        ({"precision": "f8"}, "precision"),
        ({"backend": "abacus"}, "backend"),
        ({"output": "jpeg"}, "output"),
        ({"clamp": False}, "clamp"),
    ]:
        with pytest.raises(ValueError, match=message):
            vae.decode(latents, **options)
    with pytest.raises(TypeError):
        vae.decode(latents, tiles=4)
    pixels = np.zeros((8, 8, 3), np.uint8)
    for seed in (-1, 2**70, 0.5, None):
        with pytest.raises(ValueError, match="seed is .*; it is a whole number, 0 or more, of 64 bits"):
            vae.encode(pixels, sample=True, seed=seed)
    for options in ({"height": 8.5}, {"width": 0}, {"batch": 2**80}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
            vae.plan("decode", **{"height": 8, "width": 8, **options})
    for options in ({"threads": np.int64(1)}, {"memory": np.int64(2**30)}, {"device": np.uint8(0)}):
        vae.decode(latents[:, :, :1, :1], **options)
    for wrong in ("a text", None, torch.zeros(1, requires_grad=True), np.zeros(3, np.longdouble)):
        with pytest.raises(ValueError, match="the weight w "):
            calotype.AutoencoderKL.from_tensors({"w": wrong})


def test_scaled_and_raw_latents_convert(vae, latents, expected):
    z = vae.unscale(latents)
    np.testing.assert_allclose(vae.scale(z), latents, rtol=0, atol=1e-5)
    found = vae.decode(z, unscaled=True, output="np", clamp=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    posterior = vae.posterior(pixels)
    assert posterior.mean.shape == posterior.logvar.shape == (1, 16, 2, 2)
    np.testing.assert_array_equal(vae.encode(pixels, unscaled=True), posterior.mean)
    np.testing.assert_array_equal(vae.encode(pixels), vae.scale(posterior.mean))
    draw = vae.encode(pixels, sample=True, seed=3)
    np.testing.assert_array_equal(draw, vae.encode(pixels, sample=True, seed=3))
    assert not np.array_equal(draw, vae.encode(pixels, sample=True, seed=4))


def test_memory_budgets_are_read_as_people_write_them():
    from calotype._autoencoder import parse_bytes

    assert [parse_bytes(m) for m in (None, 5, "5", "1.5M", "1.3G")] == [
        0, 5, 5, 1572864, int(1.3 * 2**30),
    ]  # fmt: skip


def test_the_cpu_agrees_with_the_reference(vae, latents, expected):
    found = vae.decode(latents, output="np", clamp=False, backend="reference")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
