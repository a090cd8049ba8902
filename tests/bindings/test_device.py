"""Arrays on a GPU, where there is none: torch's CPU tensors stand for its memory, and the CPU for its
kernels. What is judged is which call is made, with which views of whose memory."""

import ctypes
import warnings

import calotype
import diffusers
import numpy as np
import pytest
import torch
from calotype import _device, _native

import calotype.diffusers as drop_in

STREAM = 7


def array_at(view):
    """What the C++ side would read or write: numpy knows no bfloat16, whose bits it takes."""
    address, dtype, shape, strides = view
    kind = np.dtype("uint16" if dtype == "bfloat16" else dtype)
    values = 1 + sum((side - 1) * stride for side, stride in zip(shape, strides))
    memory = (ctypes.c_char * (values * kind.itemsize)).from_address(address)
    return np.ndarray(shape, kind, memory, strides=[s * kind.itemsize for s in strides])


class OnHost:
    """A model of the C++ module whose GPU is the CPU."""

    def __init__(self, model):
        self._model = model
        self._job = _native.JobArguments("cpu", "f32", 0, 2, 0, "", None)
        self.calls = []
        self.problem = None

    def __getattr__(self, name):
        return getattr(self._model, name)

    def _called(self, name, source, target, stream):
        self.calls.append((name, source, target))
        assert stream == STREAM
        if self.problem:
            raise self.problem

    def decode_on_device(self, latents, unscaled, image, stream, job):
        self._called("decode", latents, image, stream)
        pixels = "uint8" if image[1] == "uint8" else "float"
        z = array_at(latents).transpose(0, 3, 1, 2)
        array_at(image)[...] = self._model.decode(z, "NCHW", unscaled, pixels, self._job)

    def encode_on_device(self, image, moments, stream, job):
        self._called("encode", image, moments, stream)
        scale, offset = (2 / 255, -1.0) if image[1] == "uint8" else (1.0, 0.0)
        parts = self._model.moments(array_at(image), "NHWC", scale, offset, self._job)
        array_at(moments)[...] = np.concatenate(parts, 1).transpose(0, 2, 3, 1)


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(_device, "on_cuda", lambda value: isinstance(value, torch.Tensor))
    monkeypatch.setattr(_device, "stream_of", lambda tensor: STREAM)


@pytest.fixture(scope="module")
def cpu():
    return calotype.AutoencoderKL.from_pretrained()


@pytest.fixture
def vae(cpu, on_gpu):
    return calotype.AutoencoderKL(OnHost(cpu._model))


@pytest.fixture
def latents():
    return torch.randn(2, 16, 6, 5, generator=torch.Generator().manual_seed(0))


def test_knows_what_is_on_a_gpu():
    class Array:
        def __init__(self, device):
            self._device = device

        def __dlpack_device__(self):
            return self._device, 1

    assert _device.on_cuda(Array(2)) and not _device.on_cuda(Array(1))
    for other in (np.zeros(2), torch.zeros(2), torch.zeros(2, device="meta"), [1], None):
        assert not _device.on_cuda(other)


def test_decodes_where_the_latents_are(cpu, vae, latents):
    expected = cpu.decode(latents.numpy(), output="np", backend="cpu", precision="f32")
    image = vae.decode(latents, output="pt")
    assert isinstance(image, torch.Tensor) and image.shape == (2, 3, 48, 40)
    np.testing.assert_array_equal(image.permute(0, 2, 3, 1).numpy(), expected)
    np.testing.assert_array_equal(vae.decode(latents, output="np"), expected)
    raw = vae.decode(latents, output="pt", clamp=False, unscaled=True)
    assert raw.min() < 0
    pictures = vae.decode(latents)
    assert [np.asarray(p).dtype for p in pictures] == [np.uint8] * 2
    np.testing.assert_array_equal(np.asarray(pictures[1]), np.round(expected[1] * 255))
    (_, source, target) = vae._model.calls[-1]
    assert source[0] == latents.data_ptr(), "was copied"
    assert target[1] == "uint8"


def test_takes_any_strides_and_a_single_picture(cpu, vae, latents):
    expected = cpu.decode(latents.numpy(), output="np", backend="cpu", precision="f32")
    for view in (
        latents.to(memory_format=torch.channels_last),
        torch.cat([latents, latents], dim=3)[..., :5],
        latents.flip(0).flip(0),
    ):
        got = vae.decode(view, output="np")
        np.testing.assert_array_equal(got, expected)
        assert vae._model.calls[-1][1][0] == view.data_ptr()
    np.testing.assert_array_equal(vae.decode(latents[1], output="np"), expected[1:])


def test_encodes_where_the_picture_is(cpu, vae, photo):
    picture = torch.from_numpy(np.asarray(photo)[:75, :90].copy())
    unit = picture.permute(2, 0, 1)[None] / 255
    expected = cpu.encode(picture.numpy(), backend="cpu", precision="f32")
    assert expected.shape == (1, 16, 10, 12)
    for given, options in ((picture, {}), (unit, {}), (unit * 2 - 1, {"value_range": (-1, 1)})):
        got = vae.encode(given, **options)
        assert isinstance(got, torch.Tensor)
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=2e-4)
    assert isinstance(vae.encode(unit, output="np"), np.ndarray)
    options = {"sample": True, "seed": 5, "unscaled": True}
    drawn = cpu.encode(picture.numpy(), backend="cpu", precision="f32", **options)
    np.testing.assert_allclose(vae.encode(picture, **options).numpy(), drawn, rtol=0, atol=2e-4)
    mean, logvar = cpu.posterior(picture.numpy(), backend="cpu", precision="f32")
    found = vae.posterior(picture)
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=0, atol=2e-4)
    np.testing.assert_allclose(found.logvar.numpy(), logvar, rtol=0, atol=2e-4)


def test_scales_latents_in_patches_too(cpu):
    z = torch.randn(2, 16, 4, 6)
    np.testing.assert_allclose(
        _device.scale(cpu._model, z).numpy(), cpu.scale(z.numpy()), rtol=1e-5, atol=1e-5
    )

    class Flux2:
        grid = (16, 16, 4, 8)

        def scale(self, z):
            n, c, h, w = z.shape
            patches = np.asarray(z).reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4)
            channel = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
            return (patches.reshape(n, 16, h // 2, w // 2) - channel) / (channel + 1)

    z = torch.randn(2, 4, 6, 8)
    np.testing.assert_allclose(
        _device.scale(Flux2(), z).numpy(), Flux2().scale(z), rtol=1e-5, atol=1e-5
    )


def test_says_what_cannot_be(vae, latents):
    for given, options, sentence in (
        (latents.double(), {}, "latents on the GPU has the dtype float64"),
        (latents.to(torch.uint8), {}, "they are floats"),
        (latents[:, :4], {}, "have 16 channels"),
        (latents.clone().requires_grad_(), {}, "requires gradients"),
        (latents, {"backend": "cpu"}, "backend is 'cpu'"),
        (latents, {"device": 3}, "device is 3"),
    ):
        with pytest.raises(ValueError, match=sentence):
            vae.decode(given, output="pt", **options)
    with pytest.raises(ValueError, match="image on the GPU has the dtype float64"):
        vae.encode(torch.rand(1, 3, 16, 16).double() * 2 - 1, value_range=(-1, 1))
    assert vae._model.calls == []


def test_diffusers_modules_stay_on_the_gpu(cpu, vae, latents):
    expected = drop_in.AutoencoderKL(cpu, backend="cpu")
    module = drop_in.AutoencoderKL(vae)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype, atol in ((torch.float32, 0), (torch.float16, 1e-2)):
            z = latents.to(dtype)
            image = module.decode(z).sample
            assert image.dtype == dtype
            torch.testing.assert_close(
                image.float(), expected.decode(z.float()).sample, rtol=0, atol=atol
            )
            assert vae._model.calls[-1][0] == "decode"
            assert vae._model.calls[-1][2][1] == str(dtype).removeprefix("torch.")
        picture = torch.rand(2, 3, 16, 24) * 2 - 1
        latent = module.encode(picture).latent_dist.mode()
        assert vae._model.calls[-1][:1] == ("encode",)
        np.testing.assert_allclose(
            latent.numpy(),
            cpu.encode(picture.numpy(), value_range=(-1, 1), unscaled=True, backend="cpu"),
            rtol=0,
            atol=2e-4,
        )
    module.enable_slicing()
    before = len(vae._model.calls)
    assert torch.equal(module.decode(latents).sample, module.decode(latents).sample)
    assert len(vae._model.calls) == before + 4


def test_diffusers_modules_fall_back_to_the_cpu_with_a_warning(vae, latents):
    vae._model.problem = calotype.NotFoundError("the CUDA plugin is not there")
    with pytest.warns(UserWarning, match="the CPU computes what is on cpu: the CUDA plugin"):
        image = drop_in.AutoencoderKL(vae).decode(latents).sample
    assert image.shape == (2, 3, 48, 40)
    with pytest.raises(calotype.NotFoundError):
        drop_in.AutoencoderKL(vae, backend="cuda").decode(latents)
    vae._model.calls.clear()
    drop_in.AutoencoderKL(vae, backend="cpu").decode(latents)
    drop_in.AutoencoderKL(vae).decode(latents.double())
    assert vae._model.calls == []


def test_replaced_vaes_take_their_weights_once(on_gpu):
    original = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    ).eval()
    module = drop_in._from_module(original, "a test")
    module.native._model = OnHost(module.native._model)
    z = torch.randn(1, 4, 6, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            module.decode(z).sample, original.decode(z).sample, rtol=0, atol=1e-4
        )
    assert len(module.native._model.calls) == 1
