"""Arrays in the memory of an NVIDIA GPU: read and written where they are, on the caller's stream.

Nothing here copies to the CPU or waits for the GPU. torch owns what is made.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from . import _native
from ._arrays import is_torch
from ._errors import InvalidArgumentError

if TYPE_CHECKING:
    import torch

    from ._arrays import Array, Layout

_CUDA = 2  # DLPack


def on_cuda(value: object) -> bool:
    """True for what DLPack says lies in the memory of an NVIDIA GPU."""
    device = getattr(value, "__dlpack_device__", None)
    if device is None:
        return False
    try:
        return int(device()[0]) == _CUDA
    except (BufferError, RuntimeError, TypeError, ValueError):
        return False  # of a kind that DLPack does not know


def to_cuda_tensor(value: Array, what: str) -> torch.Tensor:
    """A torch tensor of the array's memory. The array's owner orders what it still has to write
    before torch's current stream, as DLPack has it."""
    try:
        import torch
    except ImportError as error:
        raise InvalidArgumentError(
            f"the {what} is on a GPU, which needs torch; install it, or move it to the CPU first"
        ) from error
    if not is_torch(value):
        from torch.utils.dlpack import from_dlpack

        try:
            found: torch.Tensor = from_dlpack(value)
        except (AssertionError, BufferError, RuntimeError, TypeError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise InvalidArgumentError(
                f"the {what} is on a GPU that torch cannot use ({reason}); "
                "move it to the CPU first"
            ) from error
        return found
    if value.requires_grad and torch.is_grad_enabled():
        raise InvalidArgumentError(
            f"the {what} requires gradients, which Calotype does not compute; "
            "give it detached: tensor.detach()"
        )
    tensor: torch.Tensor = value.detach()
    if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg():
        tensor = tensor.to_dense().resolve_conj().resolve_neg()
    return tensor


def job_on(tensor: torch.Tensor, job: dict[str, Any], what: str) -> dict[str, Any]:
    """The job's options with the GPU that the tensor is on."""
    backend = job.get("backend", "auto")
    if backend not in ("auto", "cuda"):
        raise InvalidArgumentError(
            f"the {what} is on the device {tensor.device} and backend is {backend!r}; "
            "move it to the CPU first, or leave the backend to be found"
        )
    index = tensor.device.index or 0
    if job.get("device", index) != index:
        raise InvalidArgumentError(
            f"the {what} is on the device {tensor.device} and device is {job['device']}; "
            "a job runs where its input is"
        )
    return {**job, "backend": "cuda", "device": index}


def view_of(
    tensor: torch.Tensor, layout: Layout, what: str, *, may_be_uint8: bool = False
) -> _native.DeviceArguments:
    """A tensor of rank 4, whatever its strides, as the C++ module takes it."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    known = ("float32", "float16", "bfloat16") + (("uint8",) if may_be_uint8 else ())
    if dtype not in known:
        raise InvalidArgumentError(
            f"the {what} on the GPU has the dtype {dtype}; {', '.join(known[:-1])} and {known[-1]} "
            "can be read there"
        )
    order = (0, 2, 3, 1) if layout == "NCHW" else (0, 1, 2, 3)
    shape, strides = tuple(tensor.shape), tensor.stride()
    return (
        tensor.data_ptr(),
        dtype,
        [int(shape[i]) for i in order],
        [int(strides[i]) for i in order],
    )


def stream_of(tensor: torch.Tensor) -> int:
    """torch's current stream of the tensor's GPU: a cudaStream_t."""
    import torch

    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def decode(
    model: _native.Model,
    latents: torch.Tensor,
    unscaled: bool,
    dtype: torch.dtype,
    arguments: _native.JobArguments,
) -> torch.Tensor:
    """[B, C, h, w] to pictures [B, H, W, 3] on the same GPU: floats as the network gives them, or
    uint8."""
    import torch

    channels, factor, _, z_factor = model.grid
    config = json.loads(model.config_json)
    n, _, h, w = latents.shape
    f = z_factor if unscaled else factor
    image = torch.empty(
        (n, h * f, w * f, int(config.get("out_channels", 3))), dtype=dtype, device=latents.device
    )
    model.decode_on_device(
        view_of(latents, "NCHW", "latents"),
        unscaled,
        view_of(image, "NHWC", "picture", may_be_uint8=True),
        stream_of(latents),
        arguments,
    )
    return image


def moments(
    model: _native.Model,
    image: torch.Tensor,
    layout: Layout,
    scale: float,
    offset: float,
    dtype: torch.dtype,
    arguments: _native.JobArguments,
) -> torch.Tensor:
    """Pictures times `scale` plus `offset` to mean and logvar (not clamped) of raw z, one after the
    other: [B, 2C, h, w] on the same GPU, in memory channels last. Sides that are no multiple of the
    factor are padded: the last row and column repeat."""
    import torch

    _, factor, z_channels, z_factor = model.grid
    as_is = image.dtype == torch.uint8 and (scale, offset) == (2 / 255, -1.0)  # the GPU's own map
    if not as_is and (scale, offset) != (1.0, 0.0):
        image = image.float() * scale + offset
    rows, columns = (2, 3) if layout == "NCHW" else (1, 2)
    for axis in (rows, columns):
        side = image.shape[axis]
        padded = (side + factor - 1) // factor * factor
        if padded != side:
            index = torch.arange(padded, device=image.device).clamp(max=side - 1)
            image = image.index_select(axis, index)
    found = torch.empty(
        (
            image.shape[0],
            image.shape[rows] // z_factor,
            image.shape[columns] // z_factor,
            2 * z_channels,
        ),
        dtype=dtype,
        device=image.device,
    )
    model.encode_on_device(
        view_of(image, layout, "image", may_be_uint8=True),
        view_of(found, "NHWC", "moments"),
        stream_of(image),
        arguments,
    )
    return found.permute(0, 3, 1, 2)


def scale(model: _native.Model, z: torch.Tensor) -> torch.Tensor:
    """Raw z to scaled latents, which is linear in every channel of a patch."""
    import torch

    _, factor, channels, z_factor = model.grid
    p = factor // z_factor
    zeros = torch.zeros((1, channels, p, p))
    offset = torch.from_numpy(model.scale(zeros))
    gain = torch.from_numpy(model.scale(zeros + 1)) - offset
    n, c, h, w = z.shape
    patches = z.reshape(n, c, h // p, p, w // p, p).permute(0, 1, 3, 5, 2, 4)
    latents = patches.reshape(n, c * p * p, h // p, w // p)
    return latents * gain.to(z.device) + offset.to(z.device)
