"""In the place of diffusers' own autoencoders.

    import calotype.diffusers

    calotype.diffusers.replace_vae(pipe)  # the pipeline's own weights, run by Calotype

    pipe.vae = calotype.diffusers.AutoencoderKL.from_pretrained("Tongyi-MAI/Z-Image", subfolder="vae")

As diffusers' classes, these take and give *raw* latents: pipelines scale and shift by themselves.
What comes out is of the device and dtype of the tensors that come in. Those on an NVIDIA GPU stay
there, in bf16 unless `precision` says otherwise, without a wait; all others are computed on the CPU in
float32. Where the GPU backend cannot be used, or backend is "cpu", the CPU computes those too.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, cast, overload

import diffusers
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import nn

from . import _device
from ._arrays import to_torch
from ._autoencoder import AutoencoderKL as NativeAutoencoderKL
from ._autoencoder import JobOptions, job_arguments
from ._errors import (
    InvalidArgumentError,
    InvalidDataError,
    NotFoundError,
    OutOfMemoryError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from . import _native

    Method = TypeVar("Method", bound=Callable[..., Any])

    def apply_forward_hook(method: Method) -> Method: ...

    class _Base(nn.Module):
        """What diffusers' bases, which have no types, give."""

        config: FrozenDict

        def register_to_config(self, **config: Any) -> None: ...
else:
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.utils.accelerate_utils import apply_forward_hook

    class _Base(ModelMixin, ConfigMixin):
        """A model of diffusers: pipelines take it and save it."""

__all__ = ["AutoencoderKL", "AutoencoderKLFlux2", "replace_vae"]

Pipeline = TypeVar("Pipeline")


def _class_defaults(name: str) -> dict[str, Any]:
    """The config of diffusers' class where nothing is given."""
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self"}


# What diffusers' from_pretrained and from_single_file take that has no meaning here.
_IGNORED = frozenset(
    "config_revision disable_mmap flashpack_kwargs force_download ignore_mismatched_sizes "
    "local_files_only low_cpu_mem_usage max_memory mirror offload_folder offload_state_dict proxies "
    "resume_download revision token use_flashpack use_safetensors user_agent variant cache_dir".split()
)
# What it takes that would change the model, which must then be None or False.
_REFUSED = ("quantization_config", "parallel_config", "output_loading_info")


def _job_options(options: dict[str, Any]) -> JobOptions:
    """What is left of a loader's keywords: the options of a job."""
    for name in _REFUSED:
        if options.get(name):
            raise UnsupportedError(f"{name} is {options[name]!r}, which Calotype does not support")
    job = {k: v for k, v in options.items() if k not in _IGNORED and k not in _REFUSED}
    job_arguments(**job)  # refuses what is unknown
    return cast(JobOptions, job)


def _scaling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of a config, what the tensors of a file do not show."""
    names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast")
    return {name: fields[name] for name in (*names, "sample_size") if name in fields}


def _config_fields(
    config: str | os.PathLike[str] | Mapping[str, Any], subfolder: str | None
) -> Mapping[str, Any]:
    """The fields of a config.json: itself, by its path, by its folder, or of a repo in the cache."""
    if isinstance(config, Mapping):
        return config
    path = Path(config)
    if path.is_dir():
        folders = [path / subfolder] if subfolder else [path, path / "vae"]
        path = next((f for f in (folder / "config.json" for folder in folders) if f.is_file()), path)
    if path.is_file():
        try:
            fields = json.loads(path.read_text())
        except ValueError as error:
            raise InvalidDataError(f"{path}: is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InvalidDataError(f"{path}: is no config: an object is expected")
        return fields
    return NativeAutoencoderKL.from_pretrained(config, subfolder=subfolder).config


def _original_fields(original: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The scaling factor of the original code's configuration."""
    fields: Any = original
    if not isinstance(original, Mapping):
        import yaml  # type: ignore[import-untyped]  # huggingface_hub's

        path = Path(original)
        if not path.is_file():
            raise NotFoundError(
                f"{os.fspath(original)}: there is no such file; nothing is downloaded as original_config"
            )
        fields = yaml.safe_load(path.read_text())
    try:
        return {"scaling_factor": float(fields["model"]["params"]["scale_factor"])}
    except (KeyError, TypeError, ValueError):
        return {}


class _Autoencoder(_Base):
    """What the two classes share: all but FLUX.2's batch norm."""

    _class_name = ""

    def __init__(
        self,
        native: NativeAutoencoderKL,
        config: Mapping[str, Any] | None = None,
        **job: Unpack[JobOptions],
    ) -> None:
        super().__init__()
        found = native.config.get("_class_name", "AutoencoderKL")
        if found != self._class_name:
            raise InvalidArgumentError(
                f"{native.source}: is an {found}; use calotype.diffusers.{found}"
            )
        self.native = native
        job_arguments(**job)  # refuses what makes no sense now, not at the first picture
        self.job = job
        defaults = _class_defaults(self._class_name)
        given = native.config if config is None else config
        known = {k: v for k, v in given.items() if k in defaults or k.startswith("_")}
        self.register_to_config(**{**defaults, **known})
        # A pipeline that is saved names the class that loads its folder anywhere: diffusers' own.
        self.__module__ = getattr(diffusers, self._class_name).__module__
        # No weights of the network live in the module: this is what `to` moves and converts.
        self._anchor: torch.Tensor
        self.register_buffer("_anchor", torch.empty(0), persistent=False)
        self.quant_conv = self._conv("quant_conv", 2 * int(self.config.latent_channels))
        self.post_quant_conv = self._conv("post_quant_conv", int(self.config.latent_channels))
        self.use_slicing = False
        self.use_tiling = False
        self.eval()

    def _conv(self, name: str, channels: int) -> nn.Conv2d | None:
        """A 1x1 convolution of the network, where pipelines look for its dtype. Not used."""
        weight = self.native._model.tensor(f"{name}.weight")
        bias = self.native._model.tensor(f"{name}.bias")
        if weight is None or bias is None:
            return None
        conv = nn.Conv2d(channels, channels, 1)
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(weight[0]).reshape(channels, channels, 1, 1))
            conv.bias.copy_(torch.from_numpy(bias[0]).reshape(channels))  # type: ignore[union-attr]
        return conv.requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        family: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        device_map: Any = None,
        **options: Any,
    ) -> Self:
        """Loads what `calotype.AutoencoderKL.from_pretrained` loads.

        `torch_dtype` (or `dtype`) is the dtype that the module says it has; `device_map`, where it
        is one device, the device. `options` are those of a job (progress, threads, memory, …);
        what else diffusers takes is taken, and changes nothing: weights are mapped as they are.
        """
        job = _job_options(options)
        native = NativeAutoencoderKL.from_pretrained(
            pretrained_model_name_or_path,
            subfolder=subfolder,
            family=family,
            revision=revision,
            token=token,
            local_files_only=bool(local_files_only),
            cache_dir=cache_dir,
            force_download=force_download,
        )
        return cls(native, **job)._placed(torch_dtype or dtype, device_map)

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path_or_dict: str | os.PathLike[str] | Mapping[str, torch.Tensor],
        *,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        original_config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        device_map: Any = None,
        family: str | None = None,
        subfolder: str | None = None,
        **options: Any,
    ) -> Self:
        """Loads a file, or the tensors of one. Its structure is inferred from its tensors; how its latents are scaled, where
        `family` does not say it, is in `config` (a config.json, its folder, or its fields), or in
        `original_config` (a YAML of the original code, or what it holds)."""
        job = _job_options(options)
        source = pretrained_model_link_or_path_or_dict
        if isinstance(source, Mapping):
            tensors = {name: _held_tensor(name, tensor) for name, tensor in source.items()}
            native = NativeAutoencoderKL.from_tensors(tensors, family=family)
        else:
            native = NativeAutoencoderKL.from_pretrained(source, family=family)
        fields = dict(native.config)
        if original_config is not None:
            fields.update(_original_fields(original_config))
        if config is not None:
            fields.update(_scaling(_config_fields(config, subfolder)))
        return cls(native, fields, **job)._placed(torch_dtype or dtype, device_map or device)

    def _placed(self, dtype: torch.dtype | None, device_map: Any) -> Self:
        """Of a dtype, and on a device where the map names a single one."""
        if isinstance(device_map, Mapping):
            device_map = device_map.get("")
        if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
            device_map = None
        # ModelMixin.to warns of every dtype.
        return nn.Module.to(self, device_map or self.device, dtype or self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self._anchor.dtype

    @property
    def device(self) -> torch.device:
        return self._anchor.device

    def num_parameters(
        self, only_trainable: bool = False, exclude_embeddings: bool = False
    ) -> int:
        """Of the network; none can be trained, and there are no embeddings."""
        if only_trainable:
            return 0
        shapes = [shape for name, shape, _ in self._weights() if not name.startswith("bn.")]
        return sum(math.prod(shape) for shape in shapes)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the weights, as they lie in their file or in the module that they are of."""
        return sum(count for _, _, count in self._weights())

    def _weights(self) -> list[tuple[str, list[int], int]]:
        return self.native._model.weights

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """The weights of the network, which do not live in the module: what is saved is whole."""
        for name, values in self.native.tensors().items():
            destination[prefix + name] = torch.from_numpy(values).to(self.dtype)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refuses: a model's weights do not change."""
        raise UnsupportedError(
            f"the weights of {self.native.source} cannot be replaced; load others with "
            "from_pretrained, or load them into a module of diffusers and give it to replace_vae"
        )

    @classmethod
    def from_config(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuses: there is no model without weights."""
        raise UnsupportedError("a config has no weights; use from_pretrained")

    @property
    def spatial_compression_ratio(self) -> int:
        return int(2 ** (len(self.config.block_out_channels) - 1))

    def enable_tiling(self, use_tiling: bool = True, *args: Any, **kwargs: Any) -> None:
        """Does nothing but say why: Calotype decodes any size whole, in bounded memory."""
        if use_tiling:
            warnings.warn(
                "enable_tiling does nothing: Calotype decodes any size exactly, without tiles and "
                "their seams; memory= bounds what a decode takes",
                stacklevel=2,
            )

    def disable_tiling(self) -> None:
        """Does nothing: nothing is ever tiled."""

    def enable_slicing(self) -> None:
        """Decodes and encodes the pictures of a batch one by one, which takes less memory."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        self.use_slicing = False

    @overload
    def encode(
        self, x: torch.Tensor, return_dict: Literal[True] = ...
    ) -> AutoencoderKLOutput: ...

    @overload
    def encode(
        self, x: torch.Tensor, return_dict: Literal[False]
    ) -> tuple[DiagonalGaussianDistribution]: ...

    @overload
    def encode(
        self, x: torch.Tensor, return_dict: bool
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]: ...

    @apply_forward_hook
    def encode(
        self, x: torch.Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Pictures [B, 3, H, W] in [-1, 1] to the posterior of raw latents."""
        self._check(x, "picture", int(self.config.in_channels))
        factor = self.native.spatial_factor
        if x.shape[2] % factor or x.shape[3] % factor:
            raise InvalidArgumentError(
                f"the picture is {x.shape[3]}x{x.shape[2]}; its sides must be multiples of {factor}"
            )
        moments = [self._moments(batch) for batch in self._slices(x)]
        whole = torch.cat(moments) if len(moments) > 1 else moments[0]
        posterior = DiagonalGaussianDistribution(whole.to(x.device, x.dtype))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @overload
    def decode(
        self,
        z: torch.Tensor,
        return_dict: Literal[True] = ...,
        generator: torch.Generator | None = ...,
    ) -> DecoderOutput: ...

    @overload
    def decode(
        self,
        z: torch.Tensor,
        return_dict: Literal[False],
        generator: torch.Generator | None = ...,
    ) -> tuple[torch.Tensor]: ...

    @overload
    def decode(
        self, z: torch.Tensor, return_dict: bool, generator: torch.Generator | None = ...
    ) -> DecoderOutput | tuple[torch.Tensor]: ...

    @apply_forward_hook
    def decode(
        self,
        z: torch.Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Raw latents [B, C, h, w] to pictures [B, 3, h*f, w*f] in about [-1, 1]; in memory channels
        last. `generator` is not used, as in diffusers."""
        self._check(z, "latents", int(self.config.latent_channels))
        pictures = [self._decode(batch) for batch in self._slices(z)]
        whole = torch.cat(pictures) if len(pictures) > 1 else pictures[0]
        sample = whole.to(z.device, z.dtype)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self,
        sample: torch.Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Pictures through encoder and decoder."""
        (posterior,) = self.encode(sample, return_dict=False)
        z = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        decoded: DecoderOutput | tuple[torch.Tensor] = self.decode(z, return_dict=return_dict)
        return decoded

    def _slices(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(batch.detach(), 1) if self.use_slicing else (batch.detach(),)

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        """Pictures of one device and dtype with z, or float32 on the CPU."""
        model = self.native._model
        image = self._on_device(z, lambda a: _device.decode(model, z, True, z.dtype, a))
        if image is None:
            found = model.decode(z.to("cpu"), "NCHW", True, "float", job_arguments(**self.job))
            image = to_torch(found)
        return image.permute(0, 3, 1, 2)

    def _moments(self, x: torch.Tensor) -> torch.Tensor:
        """Mean and logvar, one after the other; as `_decode`."""
        model = self.native._model
        moments = self._on_device(
            x, lambda a: _device.moments(model, x, "NCHW", 1.0, 0.0, x.dtype, a)
        )
        if moments is not None:
            return moments
        parts = model.moments(x.to("cpu"), "NCHW", 1.0, 0.0, job_arguments(**self.job))
        return torch.cat([to_torch(part) for part in parts], dim=1)

    def _on_device(
        self, x: torch.Tensor, work: Callable[[_native.JobArguments], torch.Tensor]
    ) -> torch.Tensor | None:
        """`work` on the GPU that x is on; None where the CPU is to do it."""
        job = dict(self.job)
        backend = job.get("backend", "auto")
        known = (torch.float32, torch.float16, torch.bfloat16)
        if backend not in ("auto", "cuda") or not _device.on_cuda(x) or x.dtype not in known:
            return None
        job.pop("device", None)  # it runs where x is
        try:
            return work(job_arguments(**_device.job_on(x, job, "tensor")))
        except (NotFoundError, OutOfMemoryError, UnsupportedError) as error:
            if backend == "cuda":
                raise
            warnings.warn(f"the CPU computes what is on {x.device}: {error}", stacklevel=4)
            return None

    def _check(self, x: torch.Tensor, what: str, channels: int) -> None:
        if x.requires_grad and torch.is_grad_enabled():
            raise InvalidArgumentError(
                f"the {what} requires gradients, which Calotype does not compute; "
                "use torch.no_grad(), or give it detached"
            )
        if x.ndim != 4 or x.shape[1] != channels:
            raise InvalidArgumentError(
                f"the {what} has the shape {list(x.shape)}; [B, {channels}, H, W] is expected"
            )


class AutoencoderKL(_Autoencoder):
    """diffusers' `AutoencoderKL`, run by Calotype."""

    _class_name = "AutoencoderKL"


class AutoencoderKLFlux2(_Autoencoder):
    """diffusers' `AutoencoderKLFlux2`, run by Calotype. Its `bn` holds the statistics with which the
    pipeline scales latents; `encode` and `decode` work on raw z, [B, 32, H/8, W/8]."""

    _class_name = "AutoencoderKLFlux2"

    def __init__(self, native: NativeAutoencoderKL, *args: Any, **kwargs: Any) -> None:
        super().__init__(native, *args, **kwargs)
        patch = self.config.patch_size
        self.bn = nn.BatchNorm2d(
            int(patch[0]) * int(patch[1]) * int(self.config.latent_channels),
            eps=float(self.config.batch_norm_eps),
            momentum=float(self.config.batch_norm_momentum),
            affine=False,
        ).eval()
        for name in ("running_mean", "running_var"):
            found = native._model.tensor(f"bn.{name}")
            if found is not None:
                getattr(self.bn, name).copy_(torch.from_numpy(found[0]).reshape(-1))


_CLASSES: dict[str, type[_Autoencoder]] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderKLFlux2": AutoencoderKLFlux2,
}


def _held_tensor(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta:
        raise InvalidArgumentError(
            f"the weight {name} is on the meta device; call replace_vae before offloading is enabled"
        )
    known = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    held = tensor.detach().to("cpu")
    return (held if held.dtype in known else held.to(torch.float32)).contiguous()


def _from_module(module: nn.Module, source: str, **job: Unpack[JobOptions]) -> _Autoencoder:
    """Calotype over the weights of a live module of diffusers. They are shared where they are on
    the CPU."""
    vae: Any = getattr(module, "_orig_mod", module)  # of torch.compile
    name = next((n for n in _CLASSES if isinstance(vae, getattr(diffusers, n, ()))), None)
    if name is None:
        raise UnsupportedError(
            f"{source} is a {type(vae).__name__}; only AutoencoderKL and AutoencoderKLFlux2 can be "
            "replaced"
        )
    tensors = {
        key: _held_tensor(key, tensor)
        for key, tensor in vae.state_dict().items()
        if tensor.is_floating_point()
    }
    native = NativeAutoencoderKL.from_tensors(
        tensors, {**vae.config, "_class_name": name}, source=source
    )
    return _CLASSES[name](native, vae.config, **job)._placed(vae.dtype, vae.device)


def replace_vae(
    pipe: Pipeline,
    **job: Unpack[JobOptions],
) -> Pipeline:
    """Puts Calotype in the place of a pipeline's autoencoder, with the weights that it has now.

    Args:
        pipe: a diffusers pipeline with a `vae`.
        job: progress, threads, memory and precision of every job, as
            `calotype.AutoencoderKL.decode` takes them.

    Returns:
        The pipeline, changed.

    Raises:
        UnsupportedError: its `vae` is neither an AutoencoderKL nor an AutoencoderKLFlux2.
    """
    holder: Any = pipe
    vae = getattr(holder, "vae", None)
    if vae is None:
        raise InvalidArgumentError(f"{type(pipe).__name__} has no vae")
    if not isinstance(vae, _Autoencoder):
        holder.vae = _from_module(vae, f"the vae of {type(pipe).__name__}", **job)
    return pipe
