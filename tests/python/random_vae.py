"""Small autoencoders of diffusers with random weights, and how far apart two results are."""

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2


def build(config, rng):
    """The diffusers module of `config` (a dict with `_class_name`), its weights float32 from `rng`.

    Norms are not the identity, and queries and keys are large enough for attention to choose.
    """
    fields = {k: v for k, v in config.items() if not k.startswith("_")}
    kind = {"AutoencoderKL": AutoencoderKL, "AutoencoderKLFlux2": AutoencoderKLFlux2}
    vae = kind[config["_class_name"]](**fields)
    with torch.no_grad():
        for name, tensor in vae.state_dict().items():
            if not tensor.is_floating_point():
                continue
            shape = tuple(tensor.shape)
            if name == "bn.running_var":
                values = rng.uniform(0.2, 3, shape)
            elif name.endswith(".weight") and len(shape) == 1:
                values = 1 + 0.3 * rng.standard_normal(shape)
            elif name.endswith(".weight"):
                gain = 3 if ".to_q." in name or ".to_k." in name else 1
                values = gain * rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            else:
                values = 0.2 * rng.standard_normal(shape)
            tensor.copy_(torch.from_numpy(np.asarray(values, dtype=np.float32)))
    return vae.eval().requires_grad_(False)


def blocks(levels):
    """The block types of a config of so many levels."""
    return {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def relative_rms(a, b):
    """|a - b| / |b|."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def psnr(a, b):
    """In dB; the peak is max(b) - min(b)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    return float(10 * np.log10((b.max() - b.min()) ** 2 / np.mean((a - b) ** 2)))
