"""Weights that are damaged give NaN: one sentence says so, and no black picture is written."""

import numpy
import pytest
from safetensors.numpy import load_file, save_file


@pytest.fixture
def damaged(calotype):
    """damaged(name, value): the embedded model with one weight of the tensor `name` replaced."""

    def make(name, value=numpy.nan):
        calotype("convert", "-o", "good/", "--dtype", "f32", "--force")
        path = calotype.folder / "good/diffusion_pytorch_model.safetensors"
        tensors = load_file(path)
        tensors[name].flat[0] = value
        save_file(tensors, path)
        return "good"

    return make


@pytest.mark.parametrize("name", ["decoder.conv_in.weight", "decoder.conv_out.bias"])
@pytest.mark.parametrize("out", ["out.png", "out.npy", "out.safetensors"])
def test_decode_writes_nothing(calotype, latents, damaged, name, out):
    latents()
    line = calotype.error("decode", "latents.npy", "-o", out, "--model", damaged(name), code=1)
    assert "latents.npy: the result holds NaN" in line and "the model good" in line and "--verify" in line
    assert not (calotype.folder / out).exists()


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
def test_encode_writes_nothing(calotype, picture, damaged, value):
    picture()
    model = damaged("encoder.conv_out.bias", value)
    for args in (["out.npy"], ["out.safetensors", "--moments"], ["out.npy", "--unscaled"]):
        assert "photo.png: the result holds NaN" in calotype.error("encode", "photo.png", "-o", *args, "--model", model, code=1)
    assert not any(name.startswith("out") for name in calotype.files())


def test_roundtrip_and_batches_write_nothing(calotype, picture, latents, damaged):
    picture(), latents(batch=2)
    model = damaged("decoder.conv_out.bias")
    calotype.error("roundtrip", "photo.png", "-o", "out.png", "--compare", "out2.png", "--model", model, code=1)
    for out in ("out.npy", "out.png", "-"):
        calotype.error("decode", "latents.npy", "-o", out, "--format", "npy" if out == "-" else out[-3:], "--model", model, code=1)
    assert not any(name.startswith("out") for name in calotype.files())
