"""Diffusers pipelines of tiny random components, and how each is called.

Prompts are given as embeddings, so that no text encoder is needed.
"""

import diffusers
import torch

SIDE = 64
_BLOCKS = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3


def _vae(name="AutoencoderKL", **config):
    torch.manual_seed(1)
    vae = getattr(diffusers, name)(
        down_block_types=_BLOCKS[0],
        up_block_types=_BLOCKS[1],
        block_out_channels=(8, 12, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE,
        **config,
    ).eval()
    with torch.no_grad():  # PyTorch's initialisation gives pictures of one grey
        vae.decoder.conv_out.weight.mul_(8)
    return vae


def _unet(in_channels=4, **config):
    torch.manual_seed(2)
    return diffusers.UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **config,
    ).eval()


def _scheduler():
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )


def _embeddings(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _picture():
    """A smooth picture with an edge, PIL."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    picture = np.stack([x, y, (x > 0.5) * 0.8 + 0.1], axis=-1)
    return Image.fromarray((picture * 255).astype("uint8"))


def _mask():
    import numpy as np
    from PIL import Image

    mask = np.zeros((SIDE, SIDE), "uint8")
    mask[SIDE // 4 : SIDE // 2] = 255
    return Image.fromarray(mask)


def _stable_diffusion(pipeline, unet):
    return pipeline(
        vae=_vae(latent_channels=4),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd_call(**more):
    return {
        "prompt_embeds": _embeddings(1, 7, 16),
        "negative_prompt_embeds": _embeddings(1, 7, 16, seed=4),
        **more,
    }


def sd_text2img():
    pipe = _stable_diffusion(diffusers.StableDiffusionPipeline, _unet())
    return pipe, _sd_call(height=SIDE, width=SIDE)


def sd_img2img():
    pipe = _stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline, _unet())
    return pipe, _sd_call(image=_picture(), strength=0.8)


def sd_inpaint():
    pipe = _stable_diffusion(diffusers.StableDiffusionInpaintPipeline, _unet(in_channels=9))
    return pipe, _sd_call(image=_picture(), mask_image=_mask(), height=SIDE, width=SIDE)


def sdxl():
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=_vae(latent_channels=4, scaling_factor=0.13025),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=_unet(
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
        ),
        scheduler=_scheduler(),
        add_watermarker=False,
    )
    return pipe, _sd_call(
        pooled_prompt_embeds=_embeddings(1, 24),
        negative_pooled_prompt_embeds=_embeddings(1, 24, seed=5),
        height=SIDE,
        width=SIDE,
    )


def flux():
    torch.manual_seed(2)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=24,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_vae(
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    return pipe, {
        "prompt_embeds": _embeddings(1, 7, 16),
        "pooled_prompt_embeds": _embeddings(1, 24),
        "height": SIDE,
        "width": SIDE,
    }


def sd3():
    torch.manual_seed(2)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIDE // 4,
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=16,
        pooled_projection_dim=24,
    ).eval()
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_vae(
            latent_channels=16,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    return pipe, _sd_call(
        pooled_prompt_embeds=_embeddings(1, 24),
        negative_pooled_prompt_embeds=_embeddings(1, 24, seed=5),
        height=SIDE,
        width=SIDE,
    )


def z_image():
    torch.manual_seed(2)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 64, 64],
    ).eval()
    pipe = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    return pipe, {
        "prompt_embeds": [_embeddings(7, 16)],
        "negative_prompt_embeds": [_embeddings(7, 16, seed=4)],
        "height": SIDE,
        "width": SIDE,
    }


def flux2():
    torch.manual_seed(2)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 4, 4),
    ).eval()
    vae = _vae("AutoencoderKLFlux2", latent_channels=32)
    with torch.no_grad():
        vae.bn.running_mean.copy_(_embeddings(128, seed=6) / 4)
        vae.bn.running_var.copy_(_embeddings(128, seed=7).abs() + 0.5)
    pipe = diffusers.Flux2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    return pipe, {"prompt_embeds": _embeddings(1, 7, 16), "height": SIDE, "width": SIDE}


def flux2_edit():
    pipe, call = flux2()
    return pipe, {**call, "image": _picture().resize((128, 128))}


ALL = [
    sd_text2img,
    sd_img2img,
    sd_inpaint,
    sdxl,
    flux,
    sd3,
    z_image,
    flux2,
    flux2_edit,
]
