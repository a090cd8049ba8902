"""Full-size random checkpoints with the names and dtypes of the real files, against diffusers."""

import json

import numpy as np
import pytest
import torch
from checkpoints import CONFIGS, old_attention_state, original_state, other_tensors
from diffusers import Flux2Pipeline
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from random_vae import build, psnr
from safetensors.torch import save_file

BOUND = 90  # dB, of float32 against diffusers' float32


@pytest.fixture(scope="module")
def vaes():
    """vaes(family, dtype): diffusers' module in float32, its weights of the precision of `dtype`."""
    made = {}

    def make(family, dtype):
        if (family, dtype) not in made:
            made.clear()  # one at a time, for the memory; tests are in the order of their models
            vae = build(CONFIGS[family], np.random.default_rng(1))
            made[family, dtype] = vae.to(dtype).float()
        return made[family, dtype]

    return make


def stored(vae, dtype):
    """The state dict as files hold it."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in vae.state_dict().items()}


def random_z(channels, h=6, w=5, seed=2):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((1, channels, h, w),
                                                                        dtype=np.float32))


def scaled(vae, z):
    return (z - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def expect_decoded(calotype, vae, model, tmp_path, latents, z, key="latents", suffix="safetensors",
                   **markers):
    """calotype decodes `latents` to what diffusers makes of z."""
    save_file({key: latents.contiguous(), **markers}, tmp_path / f"latents.{suffix}")
    calotype("decode", tmp_path / f"latents.{suffix}", "-o", tmp_path / "out.npy", "--model", model)
    picture = np.load(tmp_path / "out.npy").transpose(0, 3, 1, 2)
    with torch.no_grad():
        truth = vae.decode(z).sample.numpy()
    found = psnr(picture, truth)
    print(f"{model.name}: {found:.0f} dB")
    assert found >= BOUND


def family_of(calotype, model):
    return json.loads(calotype("info", "--model", model, "--json"))["family"]


# The published files: SD 1.5 and SDXL in float16, SD 1.5 also in float32, SD 3 in float16.
@pytest.mark.parametrize(("family", "dtype"), [("sdxl", torch.float16), ("sd3", torch.float16),
                                               ("sd1", torch.float32), ("sd1", torch.float16)])
def test_full_checkpoint_under_original_names(family, dtype, vaes, calotype, tmp_path):
    vae = vaes(family, dtype)
    state = original_state(stored(vae, dtype), "first_stage_model.")
    # The names are those that diffusers itself reads.
    assert convert_ldm_vae_checkpoint(state, CONFIGS[family]).keys() == vae.state_dict().keys()
    path = tmp_path / f"{family}.safetensors"
    save_file({**state, **other_tensors(family, dtype)}, path)
    assert family_of(calotype, path) == family
    z = random_z(vae.config.latent_channels)
    expect_decoded(calotype, vae, path, tmp_path, scaled(vae, z), z)


def test_encodes_with_a_full_checkpoint(vaes, calotype, tmp_path):
    vae = vaes("sd1", torch.float16)
    path = tmp_path / "sd1.safetensors"
    save_file({**original_state(stored(vae, torch.float16), "first_stage_model."),
               **other_tensors("sd1", torch.float16)}, path)
    picture = np.random.default_rng(3).uniform(-1, 1, (1, 48, 40, 3)).astype(np.float32)
    np.save(tmp_path / "in.npy", picture)
    calotype("encode", tmp_path / "in.npy", "-o", tmp_path / "latents.npy", "--model", path)
    with torch.no_grad():
        x = torch.from_numpy(picture.transpose(0, 3, 1, 2))
        truth = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
    assert psnr(np.load(tmp_path / "latents.npy"), truth.numpy()) >= BOUND


def test_old_latents_of_comfyui_are_scaled_by_sd1(vaes, calotype, tmp_path):
    vae = vaes("sd1", torch.float16)
    path = tmp_path / "vae.safetensors"
    save_file(original_state(stored(vae, torch.float16)), path)  # a VAE-only file of Stable Diffusion
    z = random_z(4)
    expect_decoded(calotype, vae, path, tmp_path, z * 0.18215, z, "latent_tensor", "latent")
    expect_decoded(calotype, vae, path, tmp_path, z, z, "latent_tensor", "latent",
                   latent_format_version_0=torch.zeros(0))


def test_folder_of_an_older_diffusers(vaes, calotype, tmp_path):
    vae = vaes("sd1", torch.float16)
    folder = tmp_path / "vae"
    vae.save_config(folder)
    state = old_attention_state(stored(vae, torch.float16))
    assert "decoder.mid_block.attentions.0.query.weight" in state
    save_file(state, folder / "diffusion_pytorch_model.fp16.safetensors")
    z = random_z(4)
    expect_decoded(calotype, vae, folder, tmp_path, scaled(vae, z), z)


def test_ae_of_flux(vaes, calotype, tmp_path):
    vae = vaes("flux", torch.bfloat16)
    path = tmp_path / "ae.safetensors"
    save_file(original_state(stored(vae, torch.bfloat16)), path)
    assert family_of(calotype, path) == "flux"
    z = random_z(16)
    expect_decoded(calotype, vae, path, tmp_path, scaled(vae, z), z)
    # ComfyUI's .latent holds raw z.
    expect_decoded(calotype, vae, path, tmp_path, z, z, "latent_tensor", "latent",
                   latent_format_version_0=torch.zeros(0))


@pytest.mark.parametrize("shards", ["1GB", "100MB"])
def test_folder_of_diffusers(shards, vaes, calotype, tmp_path):
    vae = vaes("flux", torch.bfloat16)
    vae.save_pretrained(tmp_path / "model" / "vae", max_shard_size=shards)
    assert len(list((tmp_path / "model" / "vae").glob("*.safetensors"))) == (1 if shards == "1GB"
                                                                            else 4)
    z = random_z(16)
    expect_decoded(calotype, vae, tmp_path / "model", tmp_path, scaled(vae, z), z)


def test_ae_of_flux2(vaes, calotype, tmp_path):
    vae = vaes("flux2", torch.bfloat16)
    path = tmp_path / "ae.safetensors"
    save_file(original_state(stored(vae, torch.bfloat16), flux2=True), path)
    assert family_of(calotype, path) == "flux2"
    z = random_z(32, 6, 4)
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
    latents = (Flux2Pipeline._patchify_latents(z) - mean) / std
    expect_decoded(calotype, vae, path, tmp_path, latents, z)
    expect_decoded(calotype, vae, path, tmp_path, latents, z, "latent_tensor", "latent",
                   latent_format_version_0=torch.zeros(0))
