"""The float64 reference against the installed diffusers, on random configs and sizes."""

import os
import subprocess

import numpy as np
import pytest
import torch
from random_vae import blocks, build, relative_rms
from safetensors.numpy import load_file, save_file

BOUND = 1e-10  # relative RMS
CASES = 24
FIRST_SEED = int(os.environ.get("CALOTYPE_TEST_SEED", "1"))


def random_config(rng):
    """Any AutoencoderKL or AutoencoderKLFlux2 that is small."""
    levels = int(rng.integers(1, 5))
    groups = int(rng.choice([1, 2, 3, 4]))

    def widths():  # diffusers refuses to norm a group of one value
        return [groups * int(rng.integers(2, 5)) for _ in range(levels)]

    config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": widths(),
        "layers_per_block": int(rng.integers(1, 4)),
        "latent_channels": int(rng.integers(1, 9)),
        "norm_num_groups": groups,
        "act_fn": str(rng.choice(["silu", "swish"])),
        "use_quant_conv": bool(rng.integers(2)),
        "use_post_quant_conv": bool(rng.integers(2)),
        "mid_block_add_attention": bool(rng.integers(2)),
        **blocks(levels),
    }
    if rng.integers(3) == 0:
        config |= {"_class_name": "AutoencoderKLFlux2"}
        if rng.integers(2):
            config |= {"decoder_block_out_channels": widths()}
    return config


def random_inputs(config, rng):
    """Latents and pictures of odd sizes, one pixel among them."""
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    largest = 9 if factor < 8 else 4
    inputs = {}
    for i in range(2):
        batch, h, w = (int(n) for n in (rng.integers(1, 3), *rng.integers(1, largest, 2)))
        inputs[f"z.{i}"] = rng.standard_normal((batch, config["latent_channels"], h, w))
        inputs[f"image.{i}"] = rng.uniform(-1, 1, (batch, 3, h * factor, w * factor))
    return inputs


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + CASES))
def test_agrees_with_diffusers_in_float64(seed, program, tmp_path):
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    vae = build(config, rng)
    vae.save_pretrained(tmp_path / "model")
    inputs = random_inputs(config, rng)
    save_file(inputs, tmp_path / "in.safetensors")
    subprocess.run([program.parent / "bin" / "reference_driver", tmp_path / "model",
                    tmp_path / "in.safetensors", tmp_path / "out.safetensors"], check=True)
    results = load_file(tmp_path / "out.safetensors")

    vae = vae.double()
    for name, values in inputs.items():
        x = torch.from_numpy(values)
        if name.startswith("z"):
            name, truth = name.replace("z", "image"), vae.decode(x).sample
        else:
            name, truth = name.replace("image", "moments"), vae.encode(x).latent_dist.parameters
        error = relative_rms(results[name], truth)
        print(f"seed {seed}: {name} {tuple(truth.shape)}: relative RMS {error:.1e}")
        assert error <= BOUND, f"{name} with seed {seed} and {config}"
