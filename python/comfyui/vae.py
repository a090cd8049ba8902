"""An object of ComfyUI's type VAE that Calotype runs.

In a ComfyUI graph an IMAGE is [B, H, W, 3] float32 in [0, 1], and the `samples` of a LATENT are raw z,
[B, C, H/8, W/8]: the sampler does the scaling. FLUX.2's are the normalised patches, [B, 128, H/16,
W/16]. The methods are those that ComfyUI's own nodes call, so that these work with it too.
"""

import weakref

import calotype
import torch


class _Progress:
    """ComfyUI's bar and its interrupt button, where ComfyUI is there."""

    def __init__(self):
        self._bar = self._check = None
        try:
            import comfy.model_management
            import comfy.utils
        except ImportError:
            return
        self._bar = comfy.utils.ProgressBar(100)
        self._check = comfy.model_management.throw_exception_if_processing_interrupted

    def __call__(self, fraction, layer):
        if self._check is not None:
            self._check()
        if self._bar is not None:
            self._bar.update_absolute(round(100 * fraction), 100)


class CalotypeVAE:
    """`vae` is a calotype.AutoencoderKL; `job` its options: threads, memory, precision."""

    latent_dim = 2
    output_channels = 3
    not_video = True

    def __init__(self, vae, **job):
        self.vae = vae
        self.job = job
        self.unscaled = vae.config.get("_class_name") != "AutoencoderKLFlux2"
        self.latent_channels = vae.channels

    def decode(self, samples, *args, **kwargs):
        """LATENT samples [B, C, h, w] to an IMAGE [B, h*f, w*f, 3] in [0, 1]."""
        image = self.vae.decode(
            samples.detach().cpu(),
            output="np",
            unscaled=self.unscaled,
            progress=_Progress(),
            **self.job,
        )
        return torch.from_numpy(image)

    def encode(self, pixels, *args, **kwargs):
        """An IMAGE to LATENT samples. Sides that are no multiple of the factor are cropped around the
        middle, as ComfyUI does."""
        return self.vae.encode(
            self.vae_encode_crop_pixels(pixels)[..., :3].detach().cpu(),
            layout="NHWC",
            unscaled=self.unscaled,
            output="pt",
            progress=_Progress(),
            **self.job,
        )

    def decode_tiled(self, samples, *args, **kwargs):
        """Decodes whole: there is no need for tiles, and no seam."""
        return self.decode(samples)

    def encode_tiled(self, pixels, *args, **kwargs):
        """Encodes whole."""
        return self.encode(pixels)

    def vae_encode_crop_pixels(self, pixels):
        factor = self.vae.spatial_factor
        for axis in (1, 2):
            rest = pixels.shape[axis] % factor
            if rest:
                pixels = pixels.narrow(axis, rest // 2, pixels.shape[axis] - rest)
        return pixels

    def spacial_compression_decode(self):
        return self.vae.spatial_factor

    def spacial_compression_encode(self):
        return self.vae.spatial_factor

    def temporal_compression_decode(self):
        return None

    def throw_exception_if_invalid(self):
        """It would not exist."""


_converted = weakref.WeakKeyDictionary()


def as_calotype(vae):
    """`vae` itself where it is ours; else Calotype over the weights of ComfyUI's VAE."""
    if isinstance(vae, CalotypeVAE):
        return vae
    if vae not in _converted:
        weights = {
            name: tensor.detach().to("cpu").contiguous()
            for name, tensor in vae.get_sd().items()
            if tensor.is_floating_point()
        }
        native = calotype.AutoencoderKL.from_tensors(weights, source="the VAE of the graph")
        _converted[vae] = CalotypeVAE(native)
    return _converted[vae]
