"""The C++ module. Arrays are anything that speaks DLPack or the buffer protocol."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

version: str

# Address, dtype, shape (NHWC) and strides (of n, h, w, c) in elements.
DeviceArguments: TypeAlias = tuple[int, str, Sequence[int], Sequence[int]]

class JobArguments:
    def __init__(
        self,
        backend: str,
        precision: str,
        device: int,
        threads: int,
        memory: int,
        scratch: str,
        progress: Callable[[float, str], object] | None,
    ) -> None: ...

class Model:
    @staticmethod
    def load(name: str, family: str, verify: bool) -> Model: ...
    @staticmethod
    def from_tensors(
        tensors: Mapping[str, Any],
        config_json: str | None,
        source: str,
        family: str,
        owner: object,
    ) -> Model: ...
    def decode(
        self, latents: Any, layout: str, unscaled: bool, pixels: str, job: JobArguments
    ) -> NDArray[Any]: ...
    def encode(
        self,
        image: Any,
        layout: str,
        scale: float,
        offset: float,
        seed: int | None,
        unscaled: bool,
        job: JobArguments,
    ) -> NDArray[np.float32]: ...
    def moments(
        self, image: Any, layout: str, scale: float, offset: float, job: JobArguments
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    def decode_on_device(
        self,
        latents: DeviceArguments,
        unscaled: bool,
        image: DeviceArguments,
        stream: int,
        job: JobArguments,
    ) -> None: ...
    def encode_on_device(
        self, image: DeviceArguments, moments: DeviceArguments, stream: int, job: JobArguments
    ) -> None: ...
    def scale(self, z: Any) -> NDArray[np.float32]: ...
    def unscale(self, latents: Any) -> NDArray[np.float32]: ...
    def plan(
        self, job: str, batch: int, height: int, width: int, arguments: JobArguments
    ) -> tuple[float, int]: ...
    def latent_space_hash(self) -> str: ...
    def tensor(self, name: str) -> tuple[NDArray[np.float32], list[int]] | None: ...
    @property
    def weights(self) -> list[tuple[str, list[int], int]]: ...
    @property
    def grid(self) -> tuple[int, int, int, int]: ...
    @property
    def config_json(self) -> str: ...
    @property
    def has_encoder(self) -> bool: ...
    @property
    def has_decoder(self) -> bool: ...
    @property
    def source(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def config_inferred(self) -> bool: ...

def bfloat_bits(array: Any) -> NDArray[np.uint16] | None: ...
def list_models() -> list[tuple[str, str, str, str, str, int]]: ...
def sample(mean: Any, logvar: Any, seed: int) -> NDArray[np.float32]: ...
def default_threads() -> int: ...
def parse_memory_size(text: str) -> int: ...
