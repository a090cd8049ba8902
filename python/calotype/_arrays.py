"""What goes into a job and what comes out: PIL, numpy, torch, anything with DLPack."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from . import _native
from ._errors import InvalidArgumentError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

    FloatArray: TypeAlias = NDArray[np.float32]
    # numpy and torch arrays, and whatever else has __dlpack__.
    Array: TypeAlias = Any

Layout: TypeAlias = Literal["NCHW", "NHWC"]

_CPU_DEVICES = (1, 3, 11, 13)  # DLPack: CPU, CUDA's and ROCm's page-locked memory, CUDA managed


def is_torch(value: object) -> bool:
    """True for a torch tensor; does not import torch."""
    torch_module = sys.modules.get("torch")
    return torch_module is not None and isinstance(value, torch_module.Tensor)


def is_pil(value: object) -> bool:
    """True for a PIL image; does not import PIL."""
    image_module = sys.modules.get("PIL.Image")
    return image_module is not None and isinstance(value, image_module.Image)


def from_pil(image: Image.Image) -> NDArray[np.uint8] | FloatArray:
    """[1, H, W, 3] in [0, 255], upright (EXIF), alpha over white, as the program reads files: uint8,
    or float32 of 16-bit grey, whose low bits count."""
    import numpy as np
    from PIL import Image as image_module
    from PIL import ImageOps

    if image.mode in ("I", "F"):
        raise InvalidArgumentError(
            f"the picture has the mode {image.mode}, which does not say what is white; give an array "
            "of floats in [0, 1], or a picture of the mode I;16, L or RGB"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        grey = np.asarray(upright)
        clear = upright.info.get("transparency")
        if clear is not None:
            grey = np.where(grey == clear, 65535, grey)
        return np.repeat((grey / 257).astype(np.float32)[None, ..., None], 3, axis=3)
    straight = {"La": "LA", "RGBa": "RGBA"}.get(upright.mode)  # from premultiplied alpha
    if straight is not None:
        upright = upright.convert(straight)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        white = image_module.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = image_module.alpha_composite(white, upright)
    return np.asarray(upright.convert("RGB"))[None]


def to_pil(image: NDArray[np.uint8]) -> list[Image.Image]:
    """uint8 [B, H, W, 3] (or 1 channel) to PIL images."""
    from PIL import Image as image_module

    return [image_module.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in image]


def to_torch(array: FloatArray) -> torch.Tensor:
    """A tensor of the array's memory."""
    import torch

    return torch.from_numpy(array)


def check_array(value: Array, what: str) -> tuple[Array, tuple[int, ...], bool]:
    """`value` as something the C++ module reads, its shape, and whether it holds uint8.

    Refuses, with a sentence, what requires gradients, lies on another device, or is no array.
    """
    if is_torch(value):
        import torch

        if value.requires_grad:
            raise InvalidArgumentError(
                f"the {what} requires gradients, which Calotype does not compute; "
                "give it detached: tensor.detach()"
            )
        if value.device.type != "cpu":
            raise InvalidArgumentError(
                f"the {what} is on the device {value.device}; move it to the CPU first: tensor.cpu()"
            )
        if value.layout != torch.strided or value.is_conj() or value.is_neg():
            value = value.to_dense().resolve_conj().resolve_neg()
        return value, tuple(value.shape), value.dtype == torch.uint8
    if hasattr(value, "__dlpack_device__"):
        device = int(value.__dlpack_device__()[0])
        if device not in _CPU_DEVICES:
            raise InvalidArgumentError(
                f"the {what} is on a device of DLPack type {device}, whose memory the CPU cannot "
                "read; move it to the CPU first"
            )
    import numpy as np

    if not isinstance(value, np.ndarray):
        value = _foreign_array(value, what)
    if value.dtype.name == "bfloat16":  # of the package ml_dtypes
        value = _widen(value.view(np.uint16))
    if value.dtype.kind == "f" and value.dtype.byteorder == ">":
        value = value.astype(value.dtype.newbyteorder("="))
    if value.dtype not in (np.float32, np.float64, np.float16, np.uint8):
        raise InvalidArgumentError(
            f"the {what} has the dtype {value.dtype}; "
            "float32, float64, float16, bfloat16 and uint8 can be read"
        )
    # A field of records, a view of bytes: what DLPack cannot say.
    if not value.flags.aligned or any(stride % value.itemsize for stride in value.strides):
        value = value.copy()
    return value, value.shape, value.dtype == np.uint8


def _widen(bits: NDArray[np.uint16]) -> FloatArray:
    """The bits of bfloat16 as float32."""
    import numpy as np

    return (bits.astype(np.uint32) << 16).view(np.float32)


def _foreign_array(value: Array, what: str) -> NDArray[Any]:
    """A numpy array of what speaks DLPack, without a copy but for bfloat16; or of lists."""
    import numpy as np

    try:
        if not hasattr(value, "__dlpack__"):
            return np.asarray(value)
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError):
            bits = _native.bfloat_bits(value)  # numpy has no bfloat16
            if bits is None:
                raise
            return _widen(bits)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"the {what} cannot be read as an array: {error}") from error


def with_batch(value: Array, shape: tuple[int, ...], what: str) -> tuple[Array, tuple[int, ...]]:
    """Rank 4: a batch of one of what has rank 3."""
    if len(shape) == 3:
        return value[None], (1, *shape)
    if len(shape) != 4:
        raise InvalidArgumentError(
            f"the {what} has the shape {list(shape)}; rank 4, or 3 for a single one, is expected"
        )
    return value, shape


def layout_of(shape: tuple[int, ...], channels: int, is_uint8: bool, what: str) -> Layout:
    """Which axis holds the channels, told by its length; where both could, uint8 is NHWC and float
    NCHW."""
    nchw, nhwc = shape[1] == channels, shape[3] == channels
    if not nchw and not nhwc:
        raise InvalidArgumentError(
            f"the {what} has the shape {list(shape)}, in which neither the second nor the last "
            f"axis has {channels} channels"
        )
    if nchw and nhwc:
        return "NHWC" if is_uint8 else "NCHW"
    return "NCHW" if nchw else "NHWC"
