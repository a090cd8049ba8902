"""An object of ComfyUI's type VAE that Calotype runs.

In a ComfyUI graph an IMAGE is [B, H, W, 3] float32 in [0, 1], and the `samples` of a LATENT are raw z,
[B, C, H/8, W/8]: the sampler does the scaling. FLUX.2's are the normalised patches, [B, 128, H/16,
W/16]. The methods are those that ComfyUI's own nodes call, so that these work with it too.
"""

import functools
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


class _FirstStage:
    """The network, for nodes that reach past the VAE: pictures are [B, 3, H, W] in [-1, 1]."""

    def __init__(self, owner):
        self._owner = owner

    def decode(self, z, *args, **kwargs):
        return self._owner.decode_signed(z).to(z.device, z.dtype)

    def encode(self, x, *args, **kwargs):
        return self._owner.encode_signed(x).to(x.device, x.dtype)

    def state_dict(self):
        weights = self._owner.vae.tensors()
        return {name: torch.from_numpy(values) for name, values in weights.items()}


class CalotypeVAE:
    """`vae` is a calotype.AutoencoderKL; `job` its options: threads, memory, precision."""

    latent_dim = 2
    output_channels = 3
    not_video = True
    extra_1d_channel = None
    upscale_index_formula = downscale_index_formula = None
    crop_input = True
    disable_offload = True  # nothing of it is on a GPU between jobs
    device = output_device = torch.device("cpu")
    vae_dtype = torch.float32
    working_dtypes = [torch.float32]

    def __init__(self, vae, **job):
        self.vae = vae
        self.job = job
        self.unscaled = vae.config.get("_class_name") != "AutoencoderKLFlux2"
        self.latent_channels = vae.channels
        self.upscale_ratio = self.downscale_ratio = vae.spatial_factor
        self.first_stage_model = _FirstStage(self)

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

    def decode_signed(self, samples):
        """Samples to pictures [B, 3, H, W] in about [-1, 1], not clamped."""
        return self.vae.decode(
            samples.detach().cpu(),
            output="pt",
            clamp=False,
            unscaled=self.unscaled,
            progress=_Progress(),
            **self.job,
        )

    def encode_signed(self, pixels):
        """Pictures [B, 3, H, W] in [-1, 1] to samples."""
        return self.vae.encode(
            pixels.detach().cpu(),
            layout="NCHW",
            value_range=(-1, 1),
            unscaled=self.unscaled,
            output="pt",
            progress=_Progress(),
            **self.job,
        )

    @staticmethod
    def process_input(pixels):
        return pixels * 2 - 1

    @staticmethod
    def process_output(pixels):
        return (pixels / 2 + 0.5).clamp(0, 1)

    def decode_tiled_(self, samples, *args, **kwargs):
        """Decodes whole, to [B, 3, H, W]."""
        return self.decode(samples).movedim(-1, 1)

    def encode_tiled_(self, pixels, *args, **kwargs):
        """Encodes [B, 3, H, W] whole."""
        return self.encode(pixels.movedim(1, -1))

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

    def get_sd(self):
        """The weights, by the names of diffusers, which ComfyUI reads: what the node VAESave saves."""
        return self.first_stage_model.state_dict()

    @functools.cached_property
    def size(self):
        return sum(values.nbytes for values in self.vae.tensors().values())

    def model_size(self):
        return self.size

    def vae_output_dtype(self):
        return self.vae_dtype

    def is_dynamic(self):
        return False

    def memory_used_decode(self, shape, dtype):
        """Bytes that decoding latents of a shape takes, of main memory."""
        factor = self.vae.spatial_factor
        plan = self.vae.plan("decode", shape[2] * factor, shape[3] * factor, batch=shape[0], **self.job)
        return plan.peak_bytes

    def memory_used_encode(self, shape, dtype):
        """Bytes that encoding pictures [B, 3, H, W] of a shape takes, of main memory."""
        return self.vae.plan("encode", shape[2], shape[3], batch=shape[0], **self.job).peak_bytes

    @property
    def patcher(self):
        """An empty model: ComfyUI's manager has nothing to move."""
        import comfy.model_patcher

        return comfy.model_patcher.ModelPatcher(
            torch.nn.Module(), load_device=self.device, offload_device=self.device, size=1
        )

    def spacial_compression_decode(self):
        return self.vae.spatial_factor

    def spacial_compression_encode(self):
        return self.vae.spatial_factor

    def temporal_compression_decode(self):
        return None

    def throw_exception_if_invalid(self):
        """It would not exist."""


_converted: "weakref.WeakKeyDictionary[object, CalotypeVAE]" = weakref.WeakKeyDictionary()


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
