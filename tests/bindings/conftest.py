"""What the tests of the bindings share. The package under test is on PYTHONPATH."""

import pathlib

import calotype
import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(2)
PHOTO = pathlib.Path(__file__).parents[2] / "models/photos/astronaut.png"


@pytest.fixture(scope="session")
def photo():
    """The bundled photograph, 512x512, RGB."""
    return Image.open(PHOTO).convert("RGB")


@pytest.fixture(scope="module")
def vae():
    """The embedded model."""
    return calotype.AutoencoderKL.from_pretrained()


@pytest.fixture(scope="module")
def latents():
    return np.random.default_rng(0).standard_normal((2, 16, 6, 5), dtype=np.float32)


@pytest.fixture(scope="module")
def expected(vae, latents):
    return vae.decode(latents, output="np", clamp=False)
