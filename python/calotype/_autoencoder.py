"""The native class: scaled latents in and out."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypedDict, Unpack, overload

from . import _device, _native
from ._arrays import (
    check_array,
    from_pil,
    is_pil,
    is_torch,
    layout_of,
    to_pil,
    to_torch,
    with_batch,
)
from ._errors import InvalidArgumentError
from ._hub import find_model

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from ._arrays import Array, FloatArray, Layout

Progress: TypeAlias = Callable[[float, str], object]
Output: TypeAlias = Literal["pil", "np", "pt"]


class Posterior(NamedTuple):
    """The diagonal Gaussian that the encoder predicts, of raw z: [B, C, H/f, W/f] float32 each."""

    mean: Array
    logvar: Array  # clamped to [-30, 20]


class Plan(NamedTuple):
    """What a job will take."""

    flop: float  # of the direct algorithm: 2 * multiply-adds
    peak_bytes: int  # all that `memory` counts


class ModelEntry(NamedTuple):
    """A model that `AutoencoderKL.from_pretrained` finds by `name`."""

    name: str
    container: str  # "embedded", "ollama", "hub"
    path: str
    family: str  # empty where it could not be read; `problem` says why
    problem: str
    bytes: int


def list_models() -> list[ModelEntry]:
    """The embedded model, and those of the Ollama store and the Hugging Face cache that have a VAE."""
    return [ModelEntry(*entry) for entry in _native.list_models()]


def whole_number(value: object, what: str, low: int, high: int, form: str) -> int:
    """`value`, which may be of any type of integers, between two bounds; `form` says what it is."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgumentError(f"{what} is {value!r}; it is {form}") from None
    if not low <= number <= high:
        raise InvalidArgumentError(f"{what} is {value!r}; it is {form}")
    return number


def parse_bytes(memory: str | int | None) -> int:
    """1610612736, "1536M", "1.5G": a number of bytes, in powers of 1024. None: 0."""
    if memory is None:
        return 0
    if isinstance(memory, str):
        return _native.parse_memory_size(memory)
    form = 'a positive whole number of bytes, or a text such as "1.3G"'
    return whole_number(memory, "memory", 1, 2**62, form)


class JobOptions(TypedDict, total=False):
    """What every job takes."""

    # Called with (fraction done, layer) several times a second; False cancels.
    progress: Progress | None
    threads: int | None  # None: as many as the process may use
    memory: str | int | None  # peak of the job, in bytes or as "1.3G"; None: what is free allows
    # "auto": "f32" on the CPU, "bf16" on a GPU. CPU: "fast" (four times the error of "f32"), "bf16"
    # where it has it; GPU: "f16", "f32", "fp8" (sm_90; ten times the error of "bf16").
    precision: str
    backend: str  # "auto": a GPU where there is one, else the CPU; "cpu", "cuda", "reference" (slow)
    device: int  # which GPU
    scratch: str | None  # folder for what does not fit into memory; None: $TMPDIR, else /var/tmp


def job_arguments(
    *,
    progress: Progress | None = None,
    threads: int | None = None,
    memory: str | int | None = None,
    precision: str = "auto",
    backend: str = "auto",
    device: int = 0,
    scratch: str | os.PathLike[str] | None = None,
) -> _native.JobArguments:
    """Checks and packs the options of a job."""
    if threads is not None:
        form = "a whole number, 1 or more, or None for all"
        threads = whole_number(threads, "threads", 1, 2**31 - 1, form)
    device = whole_number(device, "device", 0, 2**31 - 1, "the number of a GPU, from 0 on")
    if progress is not None and not callable(progress):
        raise InvalidArgumentError(f"progress is {progress!r}; it is a function, or None")
    for what, value, known in (
        ("precision", precision, ("auto", "f32", "fast", "bf16", "f16", "fp8")),
        ("backend", backend, ("auto", "cpu", "cuda", "reference")),
    ):
        if value not in known:
            raise InvalidArgumentError(f"{what} is {value!r}; it is one of {', '.join(known)}")
    return _native.JobArguments(
        backend,
        precision,
        device,
        threads or 0,
        parse_bytes(memory),
        os.fspath(scratch) if scratch else "",
        progress,
    )


class AutoencoderKL:
    """A KL autoencoder. Immutable; may be used from several threads at once.

    Latents are *scaled*, as diffusion models see them: `(z - shift_factor) * scaling_factor` of what
    the encoder gives (FLUX.2: batch-normed 2x2 patches). `unscaled=True` takes and gives raw z.
    """

    def __init__(self, model: _native.Model) -> None:
        self._model = model
        self._config: dict[str, Any] = json.loads(model.config_json)
        self._channels, self._factor, self._z_channels, self._z_factor = model.grid

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        subfolder: str | None = None,
        family: str | None = None,
        verify: bool = False,
        local_files_only: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
    ) -> AutoencoderKL:
        """Loads a model.

        Args:
            name: None for the embedded model; else a path (a diffusers folder or its parent, a
                `.safetensors` or `.gguf` file, an Ollama manifest), a Hugging Face repo id, or an
                Ollama name.
            subfolder: of a folder or a repo, where the autoencoder is; "vae" is found by itself.
            family: "flux", "sd1", "sd2", "sdxl", "sd3", "flux2": whose latent space the model has,
                whatever its config says; None: as the config says, else inferred.
            verify: check digests where the container has them.
            local_files_only: do not ask huggingface_hub, where it is installed, to fetch a repo
                that is not in the cache.
            revision, token, force_download: for huggingface_hub.
            cache_dir: the Hugging Face cache; None: $HF_HUB_CACHE, $HF_HOME/hub, ~/.cache/…

        Raises:
            NotFoundError, InvalidDataError, UnsupportedError
        """
        found = find_model(
            name,
            subfolder,
            local_files_only=local_files_only,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
        )
        return cls(_native.Model.load(found, family or "", verify))

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Array],
        config: Mapping[str, Any] | None = None,
        *,
        family: str | None = None,
        source: str = "memory",
    ) -> AutoencoderKL:
        """A model from weights in memory, which it refers to: they must not change.

        Args:
            tensors: by diffusers or original (LDM, BFL) name; contiguous float32, float64, float16
                or bfloat16 arrays on the CPU.
            config: the fields of a diffusers `config.json`; None to infer them.
            source: what errors call the model.
        """
        held = {name: check_array(value, f"weight {name}")[0] for name, value in tensors.items()}
        text = None if config is None else json.dumps(dict(config))
        return cls(_native.Model.from_tensors(held, text, source, family or "", held))

    def __repr__(self) -> str:
        halves = [
            half
            for half, there in (("encoder", self.has_encoder), ("decoder", self.has_decoder))
            if there
        ]
        return f"<calotype.AutoencoderKL {self.source}: {self.family}, {' and '.join(halves)}>"

    def __deepcopy__(self, memo: object) -> AutoencoderKL:
        return self  # immutable

    @property
    def config(self) -> Mapping[str, Any]:
        """The fields of a diffusers `config.json`."""
        return dict(self._config)

    @property
    def channels(self) -> int:
        """Channels of scaled latents."""
        return self._channels

    @property
    def spatial_factor(self) -> int:
        """Picture pixels per pixel of scaled latents."""
        return self._factor

    @property
    def scaling_factor(self) -> float:
        return float(self._config.get("scaling_factor", 1.0))

    @property
    def shift_factor(self) -> float | None:
        shift = self._config.get("shift_factor")
        return None if shift is None else float(shift)

    @property
    def has_encoder(self) -> bool:
        return self._model.has_encoder

    @property
    def has_decoder(self) -> bool:
        return self._model.has_decoder

    @property
    def source(self) -> str:
        """"embedded", or the path(s) of the model."""
        return self._model.source

    @property
    def family(self) -> str:
        """"flux", "sd1", "sd2", "sdxl", "sd3", "flux2" or "custom"."""
        return self._model.family

    @property
    def config_inferred(self) -> bool:
        """True where the source had no config, which was inferred from shapes and names."""
        return self._model.config_inferred

    def tensors(self) -> dict[str, FloatArray]:
        """The weights by diffusers name: float32 copies, as `from_tensors` takes them."""
        found: dict[str, FloatArray] = {}
        for name, shape, _ in self._model.weights:
            values = self._model.tensor(name)
            assert values is not None
            matrix = ".attentions." in name and len(shape) == 4  # stored as a 1x1 convolution
            found[name] = values[0].reshape(shape[:2] if matrix else shape)
        return found

    def latent_space_hash(self) -> str:
        """SHA-256 (hex) of what defines the latent space: equal hashes, exchangeable latents."""
        return self._model.latent_space_hash()

    @overload
    def decode(
        self,
        latents: Array,
        *,
        output: Literal["pil"] = ...,
        clamp: Literal[True] = ...,
        unscaled: bool = ...,
        **job: Unpack[JobOptions],
    ) -> Image.Image | list[Image.Image]: ...

    @overload
    def decode(
        self,
        latents: Array,
        *,
        output: Literal["np"],
        clamp: bool = ...,
        unscaled: bool = ...,
        **job: Unpack[JobOptions],
    ) -> FloatArray: ...

    @overload
    def decode(
        self,
        latents: Array,
        *,
        output: Literal["pt"],
        clamp: bool = ...,
        unscaled: bool = ...,
        **job: Unpack[JobOptions],
    ) -> torch.Tensor: ...

    def decode(
        self,
        latents: Array,
        *,
        output: Output = "pil",
        clamp: bool = True,
        unscaled: bool = False,
        **job: Unpack[JobOptions],
    ) -> Image.Image | list[Image.Image] | FloatArray | torch.Tensor:
        """Latents to pictures, f = `spatial_factor` times as large.

        Args:
            latents: [B, C, h, w], or [C, h, w]: numpy, torch, anything with DLPack on the CPU, of
                float32, float64, float16 or bfloat16. Scaled, or raw z with `unscaled`. On an NVIDIA
                GPU (not float64) they are decoded there, on torch's current stream, and "pt" gives a
                tensor on it without waiting; `progress` is not called then.
            output: "pil": a PIL image, a list of them for a batch of several. "np": float32
                [B, h*f, w*f, 3] in [0, 1]. "pt": a torch tensor [B, 3, h*f, w*f] in [0, 1], in
                memory channels last.
            clamp: False gives about [-1, 1] as the network does, not clamped ("np", "pt").
            progress: (in `job`, as what follows) called with (fraction done, layer) several times a
                second; False cancels.
            threads: None: as many as the process may use.
            memory: peak of the job, in bytes or as "1.3G"; None: what is free allows.
            precision: "auto": "f32" on the CPU, "bf16" on a GPU; "fast", "f16", "fp8".
            backend: "auto": a GPU where there is one, else the CPU; "cpu", "cuda", "reference".
            device, scratch: which GPU; the folder for what does not fit into `memory`.

        Raises:
            InvalidArgumentError, CancelledError, OutOfMemoryError; KeyboardInterrupt, and what
            `progress` raises, stop the job.
        """
        if output not in ("pil", "np", "pt"):
            raise InvalidArgumentError(f'output is {output!r}; it is "pil", "np" or "pt"')
        if output == "pil" and not clamp:
            raise InvalidArgumentError('clamp=False needs output="np" or "pt"')
        if _device.on_cuda(latents):
            return self._decode_on_device(latents, output, clamp, unscaled, dict(job))
        arguments = job_arguments(**job)
        batch = self._latents(latents, unscaled)
        pixels = "uint8" if output == "pil" else "unit" if clamp else "float"
        image = self._model.decode(batch, "NCHW", unscaled, pixels, arguments)
        if output == "pil":
            pictures = to_pil(image)
            return pictures[0] if len(pictures) == 1 else pictures
        return image if output == "np" else to_torch(image).permute(0, 3, 1, 2)

    @overload
    def encode(
        self,
        image: Image.Image | Sequence[Image.Image] | Array,
        *,
        layout: Layout | None = ...,
        value_range: tuple[float, float] = ...,
        sample: bool = ...,
        seed: int = ...,
        unscaled: bool = ...,
        output: Literal["np"],
        **job: Unpack[JobOptions],
    ) -> FloatArray: ...

    @overload
    def encode(
        self,
        image: Image.Image | Sequence[Image.Image] | Array,
        *,
        layout: Layout | None = ...,
        value_range: tuple[float, float] = ...,
        sample: bool = ...,
        seed: int = ...,
        unscaled: bool = ...,
        output: Literal["pt"],
        **job: Unpack[JobOptions],
    ) -> torch.Tensor: ...

    @overload
    def encode(
        self,
        image: torch.Tensor,
        *,
        layout: Layout | None = ...,
        value_range: tuple[float, float] = ...,
        sample: bool = ...,
        seed: int = ...,
        unscaled: bool = ...,
        output: None = ...,
        **job: Unpack[JobOptions],
    ) -> torch.Tensor: ...

    @overload
    def encode(
        self,
        image: Image.Image | Sequence[Image.Image] | NDArray[Any],
        *,
        layout: Layout | None = ...,
        value_range: tuple[float, float] = ...,
        sample: bool = ...,
        seed: int = ...,
        unscaled: bool = ...,
        output: None = ...,
        **job: Unpack[JobOptions],
    ) -> FloatArray: ...

    def encode(
        self,
        image: Image.Image | Sequence[Image.Image] | Array,
        *,
        layout: Layout | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        sample: bool = False,
        seed: int = 0,
        unscaled: bool = False,
        output: Literal["np", "pt"] | None = None,
        **job: Unpack[JobOptions],
    ) -> FloatArray | torch.Tensor:
        """Pictures to latents [B, C, H/f, W/f], float32. Sides that are no multiple of f are
        padded: the last row and column repeat.

        Args:
            image: a PIL image or several of a size; uint8 [H, W, 3] or [B, H, W, 3]; floats
                [B, 3, H, W] or [B, H, W, 3] in `value_range`. numpy, torch, anything with DLPack;
                on an NVIDIA GPU as in `decode`: torch tensors on it are what comes out.
            layout: "NCHW" or "NHWC"; None: told by the axis that has 3 channels.
            value_range: of floats: (0, 1) as `decode` gives them, (-1, 1) for the network's own.
            sample: draw from the posterior with `seed`, the same on every machine, instead of
                taking its mode.
            unscaled: give raw z.
            output: "np" or "pt"; None: torch for a torch tensor, else numpy.
            job: as in `decode`.
        """
        if output not in (None, "np", "pt"):
            raise InvalidArgumentError(f'output is {output!r}; it is "np" or "pt"')
        if _device.on_cuda(image):
            mean, logvar = self._moments_on_device(image, layout, value_range, dict(job))
            if sample:
                drawn = _native.sample(mean.cpu(), logvar.cpu(), seed)
                mean = to_torch(drawn).to(mean.device)
            z = mean if unscaled else _device.scale(self._model, mean)
            return z.cpu().numpy() if output == "np" else z
        arguments = job_arguments(**job)
        seed = whole_number(seed, "seed", 0, 2**64 - 1, "a whole number, 0 or more, of 64 bits")
        batch, found, scale, offset = self._pictures(image, layout, value_range)
        latents = self._model.encode(
            batch, found, scale, offset, seed if sample else None, unscaled, arguments
        )
        return to_torch(latents) if output == "pt" or (output is None and is_torch(image)) else latents

    def posterior(
        self,
        image: Image.Image | Sequence[Image.Image] | Array,
        *,
        layout: Layout | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        **job: Unpack[JobOptions],
    ) -> Posterior:
        """Mean and logvar of raw z; arguments as in `encode`. Torch tensors where the image is on a
        GPU."""
        if _device.on_cuda(image):
            return Posterior(*self._moments_on_device(image, layout, value_range, dict(job)))
        arguments = job_arguments(**job)
        batch, found, scale, offset = self._pictures(image, layout, value_range)
        return Posterior(*self._model.moments(batch, found, scale, offset, arguments))

    def scale(self, z: Array) -> FloatArray:
        """Raw z [B, C, h, w] to scaled latents."""
        return self._model.scale(self._latents(z, True))

    def unscale(self, latents: Array) -> FloatArray:
        """Scaled latents [B, C, h, w] to raw z."""
        return self._model.unscale(self._latents(latents, False))

    def plan(
        self,
        job: Literal["decode", "encode"],
        height: int,
        width: int,
        *,
        batch: int = 1,
        **options: Unpack[JobOptions],
    ) -> Plan:
        """What a job on pictures of height x width pixels will take."""
        arguments = job_arguments(**options)
        form = "a whole number, 1 or more"
        height = whole_number(height, "height", 1, 2**31, form)
        width = whole_number(width, "width", 1, 2**31, form)
        batch = whole_number(batch, "batch", 1, 2**31, form)
        return Plan(*self._model.plan(job, batch, height, width, arguments))

    def _decode_on_device(
        self, latents: Array, output: Output, clamp: bool, unscaled: bool, job: dict[str, Any]
    ) -> Image.Image | list[Image.Image] | FloatArray | torch.Tensor:
        import torch

        tensor = _device.to_cuda_tensor(latents, "latents")
        arguments = job_arguments(**_device.job_on(tensor, job, "latents"))
        batch = self._latent_batch(tensor, tuple(tensor.shape), tensor.dtype == torch.uint8, unscaled)
        dtype = torch.uint8 if output == "pil" else torch.float32
        image = _device.decode(self._model, batch, unscaled, dtype, arguments)
        if output == "pil":
            pictures = to_pil(image.cpu().numpy())
            return pictures[0] if len(pictures) == 1 else pictures
        if clamp:
            image = torch.nan_to_num(image.mul_(0.5).add_(0.5), nan=0.0).clamp_(0, 1)
        return image.cpu().numpy() if output == "np" else image.permute(0, 3, 1, 2)

    def _moments_on_device(
        self,
        image: Array,
        layout: Layout | None,
        value_range: tuple[float, float],
        job: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        tensor = _device.to_cuda_tensor(image, "image")
        arguments = job_arguments(**_device.job_on(tensor, job, "image"))
        batch, found, scale, offset = self._picture_batch(
            tensor, tuple(tensor.shape), tensor.dtype == torch.uint8, layout, value_range
        )
        both = _device.moments(
            self._model, batch, found, scale, offset, torch.float32, arguments
        )
        mean, logvar = both.chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def _latents(self, latents: Array, unscaled: bool) -> Array:
        return self._latent_batch(*check_array(latents, "latents"), unscaled)

    def _latent_batch(
        self, value: Array, shape: tuple[int, ...], is_uint8: bool, unscaled: bool
    ) -> Array:
        channels = self._z_channels if unscaled else self._channels
        if is_uint8:
            raise InvalidArgumentError("the latents have the dtype uint8; they are floats")
        value, shape = with_batch(value, shape, "latents")
        if shape[1] != channels:
            raise InvalidArgumentError(
                f"the latents have the shape {list(shape)}; {'raw z' if unscaled else 'latents'} "
                f"of this model have {channels} channels: [B, {channels}, h, w]"
            )
        return value

    def _pictures(
        self,
        image: Image.Image | Sequence[Image.Image] | Array,
        layout: Layout | None,
        value_range: tuple[float, float],
    ) -> tuple[Array, Layout, float, float]:
        """The batch, its layout, and the scale and offset that bring it to [-1, 1]."""
        if layout not in (None, "NCHW", "NHWC"):
            raise InvalidArgumentError(f'layout is {layout!r}; it is "NCHW" or "NHWC"')
        pictures: list[Any] = list(image) if isinstance(image, (list, tuple)) else [image]
        if pictures and all(is_pil(one) for one in pictures):
            import numpy as np

            if len({one.size for one in pictures}) > 1:
                raise InvalidArgumentError("the pictures of a batch are not all of one size")
            return np.concatenate([from_pil(one) for one in pictures]), "NHWC", 2 / 255, -1.0
        return self._picture_batch(*check_array(image, "image"), layout, value_range)

    def _picture_batch(
        self,
        value: Array,
        shape: tuple[int, ...],
        is_uint8: bool,
        layout: Layout | None,
        value_range: tuple[float, float],
    ) -> tuple[Array, Layout, float, float]:
        channels = int(self._config["in_channels"])
        value, shape = with_batch(value, shape, "image")
        found = layout or layout_of(shape, channels, is_uint8, "image")
        if shape[1 if found == "NCHW" else 3] != channels:
            raise InvalidArgumentError(
                f"the image has the shape {list(shape)}, which is not {found} with "
                f"{channels} channels"
            )
        if is_uint8:
            return value, found, 2 / 255, -1.0
        low, high = value_range
        if not low < high:
            raise InvalidArgumentError(f"value_range is {value_range}; it must be (low, high)")
        return value, found, 2 / (high - low), -(high + low) / (high - low)

