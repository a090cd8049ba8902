"""Checkpoints as the world has them: full-size, random, with the names and dtypes of the real files.

The names are written down here a second time, from the original code (CompVis' latent diffusion,
BFL's flux and flux2), so that a mistake in Calotype's tables cannot hide.
"""

import re

import torch
from random_vae import blocks

WIDTHS = [128, 256, 512, 512]
COMMON = {"block_out_channels": WIDTHS, "layers_per_block": 2, "norm_num_groups": 32, **blocks(4)}
QUANT = {"use_quant_conv": True, "use_post_quant_conv": True}
PLAIN = {"use_quant_conv": False, "use_post_quant_conv": False}

CONFIGS = {
    "sd1": {"_class_name": "AutoencoderKL", "latent_channels": 4, "scaling_factor": 0.18215,
            **COMMON, **QUANT},
    "sdxl": {"_class_name": "AutoencoderKL", "latent_channels": 4, "scaling_factor": 0.13025,
             **COMMON, **QUANT},
    "sd3": {"_class_name": "AutoencoderKL", "latent_channels": 16, "scaling_factor": 1.5305,
            "shift_factor": 0.0609, **COMMON, **PLAIN},
    "flux": {"_class_name": "AutoencoderKL", "latent_channels": 16, "scaling_factor": 0.3611,
             "shift_factor": 0.1159, **COMMON, **PLAIN},
    "flux2": {"_class_name": "AutoencoderKLFlux2", "latent_channels": 32, **COMMON, **QUANT},
}

# Beside the autoencoder a full checkpoint has the diffusion model, text encoders and leftovers of
# training: a few of them, by their real names and shapes, but that the widest are cut short.
OTHERS = {
    "sd1": {
        "alphas_cumprod": (1000,),
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.out.2.bias": (4,),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
        "model_ema.decay": (),
    },
    "sdxl": {
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,),
        "conditioner.embedders.1.model.ln_final.weight": (1280,),
        "conditioner.embedders.1.model.logit_scale": (),
        "denoiser.sigmas": (1000,),
        "model.diffusion_model.label_emb.0.0.weight": (1280, 16),
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    },
    "sd3": {
        "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4608, 16),
        "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
        "model.diffusion_model.pos_embed": (1, 36, 1536),
        "text_encoders.clip_l.logit_scale": (),
        "text_encoders.t5xxl.transformer.shared.weight": (16, 4096),
    },
}


def original_name(name, flux2=False):
    """The name of a diffusers tensor in the original code."""
    if flux2 and name.startswith("quant_conv."):
        return "encoder." + name
    if flux2 and name.startswith("post_quant_conv."):
        return "decoder." + name
    name = re.sub(r"^encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"^encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample",
                  name)
    name = re.sub(r"^decoder\.up_blocks\.(\d)",
                  lambda m: f"decoder.up.{len(WIDTHS) - 1 - int(m[1])}", name)
    name = re.sub(r"^(decoder\.up\.\d)\.resnets\.(\d)", r"\1.block.\2", name)
    name = re.sub(r"^(decoder\.up\.\d)\.upsamplers\.0", r"\1.upsample", name)
    name = name.replace("mid_block.resnets.0", "mid.block_1")
    name = name.replace("mid_block.resnets.1", "mid.block_2")
    for new, old in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
                     ("to_out.0", "proj_out")):
        name = name.replace(f"mid_block.attentions.0.{new}", f"mid.attn_1.{old}")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def original_state(state, prefix="", flux2=False):
    """diffusers' state dict as the original code saves it: attention as 1x1 convolutions."""
    result = {}
    for name, tensor in state.items():
        if re.search(r"attentions\.0\.to_(q|k|v|out\.0)\.weight$", name):
            tensor = tensor[:, :, None, None]
        result[prefix + original_name(name, flux2)] = tensor.contiguous()
    return result


def old_attention_state(state):
    """diffusers' state dict with the names of before version 0.17."""
    parts = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name):
        for new, old in parts.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        return name

    return {renamed(name): tensor for name, tensor in state.items()}


def other_tensors(family, dtype):
    """What stands beside the autoencoder in a full checkpoint of a family."""
    tensors = {}
    for name, shape in OTHERS[family].items():
        whole = name.endswith("position_ids")
        tensors[name] = torch.zeros(shape, dtype=torch.int64 if whole else dtype)
    return tensors
