"""Calotype: the KL autoencoder of latent diffusion models, exact at any size, fast on CPUs.

    import calotype

    vae = calotype.AutoencoderKL.from_pretrained("Tongyi-MAI/Z-Image", subfolder="vae")
    latents = vae.encode(image)
    image = vae.decode(latents, output="pil")

`calotype.diffusers` puts it in the place of a diffusers pipeline's own autoencoder.
"""

from __future__ import annotations

from ._autoencoder import AutoencoderKL, ModelEntry, Plan, Posterior, list_models
from ._errors import (
    CancelledError,
    Error,
    InternalError,
    InvalidArgumentError,
    InvalidDataError,
    IoError,
    NotFoundError,
    OutOfMemoryError,
    UnsupportedError,
)
from ._native import default_threads
from ._native import version as __version__

__all__ = [
    "AutoencoderKL",
    "CancelledError",
    "Error",
    "InternalError",
    "InvalidArgumentError",
    "InvalidDataError",
    "IoError",
    "ModelEntry",
    "NotFoundError",
    "OutOfMemoryError",
    "Plan",
    "Posterior",
    "UnsupportedError",
    "__version__",
    "default_threads",
    "list_models",
]
