#!/usr/bin/env python3
"""Makes the goldens of this folder: what diffusers computes in float64 for small random models.

    $(scripts/python-env.sh) tests/goldens/make.py          writes *.safetensors
    $(scripts/python-env.sh) tests/goldens/make.py --check  computes their results again

A file holds one model: its config.json as the metadata `config`, its float32 weights under
`weights.NAME`, and float64 arrays in NCHW: decode.I.z -> decode.I.image, encode.I.image ->
encode.I.moments (mean and log variance, not clamped), scale.z <-> scale.latents.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from diffusers import Flux2Pipeline
from safetensors import safe_open
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "python"))
from random_vae import blocks, build, relative_rms  # noqa: E402

PLAIN = {"use_quant_conv": False, "use_post_quant_conv": False}

# name: (config, sizes of z to decode, sizes of pictures to encode), sizes [batch, height, width].
MODELS = {
    "one_level": (
        {"block_out_channels": [4], "layers_per_block": 1, "latent_channels": 2,
         "norm_num_groups": 2, **blocks(1)},
        [(1, 1, 1), (2, 5, 3)],
        [(1, 1, 1), (2, 3, 7)],
    ),
    "flux_like": (
        {"block_out_channels": [2, 4, 8, 8], "layers_per_block": 2, "latent_channels": 16,
         "norm_num_groups": 2, "scaling_factor": 0.3611, "shift_factor": 0.1159, **PLAIN,
         **blocks(4)},
        [(1, 1, 1), (1, 3, 5), (2, 2, 1)],
        [(1, 8, 8), (1, 24, 16), (2, 8, 40), (1, 19, 45)],
    ),
    "sd_like": (
        {"block_out_channels": [6, 6, 12], "layers_per_block": 1, "latent_channels": 4,
         "norm_num_groups": 3, "scaling_factor": 0.18215, **blocks(3)},
        [(1, 4, 7), (1, 7, 2)],
        [(1, 12, 20), (1, 9, 13)],
    ),
    "sdxl_statistics": (
        {"block_out_channels": [4, 2], "layers_per_block": 1, "latent_channels": 4,
         "norm_num_groups": 1, "scaling_factor": 0.5, "use_quant_conv": False,
         "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
         "latents_std": [8.4927, 5.9022, 6.5498, 5.2299], **blocks(2)},
        [(1, 5, 6)],
        [(1, 10, 6)],
    ),
    "no_attention": (
        {"block_out_channels": [2, 6, 4], "layers_per_block": 3, "latent_channels": 3,
         "norm_num_groups": 2, "scaling_factor": 1.5305, "shift_factor": 0.0609,
         "mid_block_add_attention": False, "use_post_quant_conv": False, **blocks(3)},
        [(2, 3, 3)],
        [(1, 16, 4)],
    ),
    "other_channels": (
        {"in_channels": 1, "out_channels": 5, "block_out_channels": [8, 4], "layers_per_block": 2,
         "latent_channels": 1, "norm_num_groups": 4, **blocks(2)},
        [(1, 3, 8)],
        [(2, 6, 14)],
    ),
    "flux2": (
        {"_class_name": "AutoencoderKLFlux2", "block_out_channels": [4, 8],
         "layers_per_block": 1, "latent_channels": 3, "norm_num_groups": 2, "sample_size": 32,
         **blocks(2)},
        [(1, 2, 6), (2, 4, 2)],
        [(1, 8, 12), (2, 4, 4)],
    ),
    "flux2_small_decoder": (
        {"_class_name": "AutoencoderKLFlux2", "block_out_channels": [4, 8, 8],
         "decoder_block_out_channels": [2, 4, 6], "layers_per_block": 2, "latent_channels": 2,
         "norm_num_groups": 2, "batch_norm_eps": 1e-2, "sample_size": 32, **blocks(3)},
        [(1, 4, 6)],
        [(1, 16, 8)],
    ),
}


def scale(vae, z):
    """Raw z to latents, as the pipelines of the family do."""
    config = vae.config
    if hasattr(vae, "bn"):
        z = Flux2Pipeline._patchify_latents(z)
        std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + config.batch_norm_eps)
        return (z - vae.bn.running_mean.view(1, -1, 1, 1)) / std
    if config.latents_mean is not None:  # StableDiffusionXLImg2ImgPipeline
        mean = torch.tensor(config.latents_mean, dtype=z.dtype).view(1, -1, 1, 1)
        std = torch.tensor(config.latents_std, dtype=z.dtype).view(1, -1, 1, 1)
        return (z - mean) * config.scaling_factor / std
    return (z - (config.shift_factor or 0)) * config.scaling_factor  # FluxImg2ImgPipeline


def results(vae, inputs):
    """The golden results for inputs {"decode.0.z": …, "encode.0.image": …, "scale.z": …}."""
    vae = vae.double()
    outputs = {}
    for name, values in inputs.items():
        x = torch.from_numpy(values)
        if name == "scale.z":
            outputs["scale.latents"] = scale(vae, x)
        elif name.startswith("decode."):
            outputs[name.replace(".z", ".image")] = vae.decode(x).sample
        else:
            moments = vae.encode(x).latent_dist.parameters
            outputs[name.replace(".image", ".moments")] = moments
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def make(name, seed):
    config, latents, pictures = MODELS[name]
    config = {"_class_name": "AutoencoderKL", **config}
    rng = np.random.default_rng(seed)
    vae = build(config, rng)
    weights = {f"weights.{k}": v.numpy().copy() for k, v in vae.state_dict().items()}
    inputs = {}
    for i, (n, h, w) in enumerate(latents):
        inputs[f"decode.{i}.z"] = rng.standard_normal((n, config["latent_channels"], h, w))
    for i, (n, h, w) in enumerate(pictures):
        inputs[f"encode.{i}.image"] = rng.uniform(-1, 1, (n, config.get("in_channels", 3), h, w))
    inputs["scale.z"] = rng.standard_normal((2, config["latent_channels"], 4, 6))
    arrays = {**weights, **inputs, **results(vae, inputs)}
    arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    # As diffusers writes config.json, but for the version of diffusers.
    written = {k: v for k, v in vae.config.items() if not k.startswith("_")}
    written["_class_name"] = config["_class_name"]
    path = FOLDER / f"{name}.safetensors"
    save_file(arrays, path, metadata={"config": json.dumps(written, indent=2, sort_keys=True)})
    path.chmod(0o644)


def check(path):
    """The largest relative RMS between a file's results and those of the diffusers installed."""
    with safe_open(path, "np") as file:
        config = json.loads(file.metadata()["config"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    vae = build(config, np.random.default_rng(0))
    vae.load_state_dict({name.removeprefix("weights."): torch.from_numpy(values.copy())
                         for name, values in arrays.items() if name.startswith("weights.")})
    inputs = {k: v for k, v in arrays.items()
              if k == "scale.z" or (k.startswith("decode.") and k.endswith(".z"))
              or (k.startswith("encode.") and k.endswith(".image"))}
    found = results(vae, inputs)
    assert set(found) | set(inputs) == {k for k in arrays if not k.startswith("weights.")}
    return max(relative_rms(arrays[name], values) for name, values in found.items())


def main():
    if sys.argv[1:] == ["--check"]:
        for path in sorted(FOLDER.glob("*.safetensors")):
            print(f"{path.stem:20} {check(path):.1e}")
        return
    for seed, name in enumerate(MODELS):
        make(name, seed)


if __name__ == "__main__":
    main()
