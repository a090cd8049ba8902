r"""The Python package and the program on an NVIDIA GPU, for an interpreter that has both and torch:

    CALOTYPE_CUDA_PLUGIN=build-cuda/bin/libcalotype_cuda.so \
        python3 -m pytest tests/cuda --calotype build-cuda/calotype
"""

import pathlib
import subprocess
import warnings

import calotype
import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import calotype.diffusers as drop_in

PHOTO = pathlib.Path(__file__).parents[2] / "models/photos/astronaut.png"
# bf16 on the GPU against float32 on the CPU, relative RMS.
CLOSE = 3e-2


def error(found, expected):
    found, expected = (torch.as_tensor(np.asarray(a.cpu() if isinstance(a, torch.Tensor) else a)).double()
                       for a in (found, expected))
    return ((found - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def vae():
    return calotype.AutoencoderKL.from_pretrained()


@pytest.fixture
def latents():
    return torch.randn(2, 16, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def photo():
    return torch.from_numpy(np.asarray(Image.open(PHOTO).convert("RGB"))[:199, :264].copy())


def test_decodes_in_the_gpus_memory(vae, latents):
    expected = vae.decode(latents.numpy(), output="np", backend="cpu")
    image = vae.decode(latents.cuda(), output="pt")
    assert image.is_cuda and image.shape == (2, 3, 96, 80)
    assert error(image.permute(0, 2, 3, 1), expected) < CLOSE
    exact = vae.decode(latents.cuda(), output="pt", precision="f32")
    assert error(exact.permute(0, 2, 3, 1), expected) < 2e-5
    half = vae.decode(latents.cuda().half(), output="pt", precision="f16")
    assert error(half.permute(0, 2, 3, 1), expected) < CLOSE / 3
    pictures = vae.decode(latents.cuda(), precision="f32")
    difference = np.asarray(pictures[1]).astype(int) - np.round(expected[1] * 255).astype(int)
    assert np.abs(difference).max() <= 1


def test_takes_any_strides_on_the_gpu(vae, latents):
    expected = vae.decode(latents.cuda(), output="pt")
    for view in (
        latents.cuda().to(memory_format=torch.channels_last),
        torch.cat([latents, latents], dim=3).cuda()[..., :10],
    ):
        assert torch.equal(vae.decode(view, output="pt"), expected)


def test_encodes_in_the_gpus_memory(vae, photo):
    expected = vae.encode(photo.numpy(), backend="cpu")
    for given in (photo.cuda(), photo.permute(2, 0, 1)[None].cuda() / 255):
        latents = vae.encode(given)
        assert latents.is_cuda and latents.shape == (1, 16, 25, 33)
        assert error(latents, expected) < CLOSE
    assert error(vae.encode(photo.cuda(), precision="f32"), expected) < 1e-4


def test_does_not_wait_for_the_gpu(vae, latents):
    z = latents.cuda()
    expected = vae.decode(z, output="pt")
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        held = torch.zeros_like(z)
        torch.cuda._sleep(400_000_000)  # some 0.2 s
        held.copy_(z)
        image = vae.decode(held, output="pt")
        assert not stream.query(), "the call waited for what was before it on the stream"
    stream.synchronize()
    assert torch.equal(image, expected)


def test_is_captured_in_a_graph(vae, latents):
    z = latents.cuda()
    expected = vae.decode(z, output="pt", clamp=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        image = vae.decode(z, output="pt", clamp=False)
    z.zero_()
    graph.replay()
    assert not torch.equal(image, expected)
    z.copy_(latents)
    graph.replay()
    assert torch.equal(image, expected)


def test_arrays_of_the_host_pass_through_the_gpu(vae, latents):
    on_gpu = vae.decode(latents.cuda(), output="np")
    np.testing.assert_array_equal(vae.decode(latents.numpy(), output="np", backend="cuda"), on_gpu)
    plan = vae.plan("decode", 96, 80, backend="cuda")
    assert plan.peak_bytes > 0


def test_replaced_vaes_stay_on_the_gpu(latents):
    original = diffusers.AutoencoderKL(
        block_out_channels=(32, 64), norm_num_groups=8, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    ).eval().to("cuda")

    class Pipeline:
        pass

    pipe = Pipeline()
    pipe.vae = original
    drop_in.replace_vae(pipe)
    assert isinstance(pipe.vae, drop_in.AutoencoderKL)
    z = torch.randn(1, 4, 12, 10, device="cuda")
    picture = torch.rand(1, 3, 48, 40, device="cuda") * 2 - 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (torch.float32, torch.bfloat16):
            found = pipe.vae.decode(z.to(dtype)).sample
            assert found.is_cuda and found.dtype == dtype
            assert error(found.float(), original.decode(z).sample) < CLOSE
            mean = pipe.vae.encode(picture.to(dtype)).latent_dist.mean
            assert mean.is_cuda and mean.dtype == dtype
            assert error(mean.float(), original.encode(picture).latent_dist.mean) < CLOSE


def test_the_program_takes_the_gpu_and_says_so(tmp_path, program):
    def run(*arguments):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)

    found = run("roundtrip", PHOTO, "-o", tmp_path / "auto.png")
    assert found.returncode == 0, found.stderr
    assert "bf16" in found.stdout + found.stderr
    for name, options in (("exact", ["--precision", "f32"]), ("cpu", ["--backend", "cpu"])):
        done = run("roundtrip", PHOTO, "-o", tmp_path / f"{name}.png", *options)
        assert done.returncode == 0, done.stderr
    images = {n: np.asarray(Image.open(tmp_path / f"{n}.png")).astype(int) for n in ("auto", "exact", "cpu")}
    assert np.abs(images["exact"] - images["cpu"]).max() <= 1
    psnr = 10 * np.log10(255**2 / np.square(images["auto"] - images["cpu"]).mean())
    assert psnr > 40
    # e4m3 in the 3x3 convolutions costs the picture 0.3 dB at most.
    done = run("roundtrip", PHOTO, "-o", tmp_path / "fp8.png", "--precision", "fp8")
    assert done.returncode == 0, done.stderr
    original = np.asarray(Image.open(PHOTO).convert("RGB")).astype(int)
    images["fp8"] = np.asarray(Image.open(tmp_path / "fp8.png")).astype(int)
    quality = {n: 10 * np.log10(255**2 / np.square(i - original).mean()) for n, i in images.items()}
    assert quality["fp8"] > quality["exact"] - 0.3
    refused = run("roundtrip", PHOTO, "-o", tmp_path / "no.png", "--backend", "cuda", "--device", "99")
    assert refused.returncode != 0 and refused.stderr.count("\n") == 1 and not (tmp_path / "no.png").exists()
