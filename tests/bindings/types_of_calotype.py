"""What mypy must find of the package's types; scripts/test-python.sh has it look."""

from typing import Any, assert_type

import calotype
import calotype.diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

vae = calotype.AutoencoderKL.from_pretrained()
floats = np.zeros((1, 3, 8, 8), np.float32)
picture = Image.new("RGB", (8, 8))

assert_type(vae.encode(picture), NDArray[np.float32])
assert_type(vae.encode([picture, picture]), NDArray[np.float32])
assert_type(vae.encode(floats, sample=True, threads=1), NDArray[np.float32])
assert_type(vae.encode(torch.zeros(1, 3, 8, 8)), torch.Tensor)
assert_type(vae.encode(torch.zeros(1, 3, 8, 8), output="np"), NDArray[np.float32])
assert_type(vae.encode(picture, output="pt", memory="1G"), torch.Tensor)
assert_type(vae.decode(floats), Image.Image | list[Image.Image])
assert_type(vae.decode(floats, output="np", clamp=False), NDArray[np.float32])
assert_type(vae.decode(floats, output="pt"), torch.Tensor)
assert_type(vae.tensors(), dict[str, NDArray[np.float32]])

drop_in = calotype.diffusers.AutoencoderKL.from_pretrained("folder", torch_dtype=torch.float16)
assert_type(drop_in, calotype.diffusers.AutoencoderKL)
assert_type(drop_in.decode(torch.zeros(1, 4, 8, 8), return_dict=False), tuple[torch.Tensor])
assert_type(drop_in.dtype, torch.dtype)


def replaced(pipe: dict[str, Any]) -> None:
    assert_type(calotype.diffusers.replace_vae(pipe, threads=2), dict[str, Any])
