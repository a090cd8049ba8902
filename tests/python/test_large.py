"""A large picture, whole, in little memory: the statistics of its norms are those of all of it."""

import subprocess
import time

import numpy as np
import pytest
from random_vae import blocks, build, psnr, relative_rms

NARROW = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 8, 16, 16],
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    **blocks(4),
}


def test_2048x2048_agrees_with_the_reference(program, tmp_path):
    """As deep as FLUX.1's, a 32nd as wide; in a fifth of the memory that it would like."""
    rng = np.random.default_rng(2048)
    build(NARROW, rng).save_pretrained(tmp_path / "vae")
    np.save(tmp_path / "latents.npy", rng.standard_normal((1, 16, 256, 256)).astype(np.float32))

    def decode(name, *options):
        start = time.perf_counter()
        subprocess.run(
            [program, "decode", "latents.npy", "-o", name, "--model", "vae", "-q", *options], cwd=tmp_path, check=True
        )
        return np.load(tmp_path / name), time.perf_counter() - start

    whole, took = decode("whole.npy", "--backend", "reference")
    for options in (["--memory", "2G"], ["--memory", "120M", "--scratch", "."]):
        ours, seconds = decode("ours.npy", "--backend", "cpu", *options)
        error, decibel = relative_rms(ours, whole), psnr(ours, whole)
        print(f"{' '.join(options)}: relative RMS {error:.2e}, {decibel:.1f} dB, {seconds:.1f} s ({took:.1f} s)")
        assert error <= 1e-5
