"""What the tests of the bindings share. The package under test is on PYTHONPATH."""

import pathlib

import pytest
import torch
from PIL import Image

torch.set_num_threads(2)
PHOTO = pathlib.Path(__file__).parents[2] / "models/photos/astronaut.png"


@pytest.fixture(scope="session")
def photo():
    """The bundled photograph, 512x512, RGB."""
    return Image.open(PHOTO).convert("RGB")
