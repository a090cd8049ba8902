"""FLUX.2 weights without their batch-norm statistics: raw z goes both ways, scaled latents do not."""

import json

import numpy
import pytest


@pytest.fixture
def bare(calotype):
    """The embedded model as a FLUX.2 one that lacks bn.*."""
    calotype("convert", "-o", "bare/")
    config = json.loads((calotype.folder / "bare/config.json").read_text())
    config |= {"_class_name": "AutoencoderKLFlux2", "patch_size": [2, 2]}
    (calotype.folder / "bare/config.json").write_text(json.dumps(config))
    return "bare"


def test_raw_z_goes_both_ways(calotype, picture, bare):
    report = calotype.json("encode", picture(), "-o", "z.safetensors", "--unscaled", "--model", bare)
    assert report["latent_space"] is None
    report = calotype.json("decode", "z.safetensors", "-o", "a.png", "--model", bare)
    assert report["latent_space"] is None and report["results"][0]["unscaled"]
    calotype("encode", "photo.png", "-o", "z.npy", "--unscaled", "--model", bare)
    calotype("decode", "z.npy", "-o", "b.png", "--unscaled", "--model", bare)
    assert (calotype.folder / "a.png").read_bytes() == (calotype.folder / "b.png").read_bytes()
    calotype("encode", "photo.png", "-o", "m.safetensors", "--moments", "--model", bare)
    calotype("decode", "m.safetensors", "-o", "c.png", "--model", bare)
    assert (calotype.folder / "a.png").read_bytes() == (calotype.folder / "c.png").read_bytes()
    calotype("roundtrip", "photo.png", "-o", "d.png", "--model", bare)
    assert (calotype.folder / "a.png").read_bytes() == (calotype.folder / "d.png").read_bytes()


def test_info_says_what_is_missing(calotype, bare):
    assert calotype.json("info", "--model", bare)["latent_space"] is None
    assert "bn.*" in calotype("info", "--model", bare).stdout


def test_scaled_latents_are_refused_before_anything_is_written(calotype, picture, bare):
    numpy.save(calotype.folder / "scaled.npy", numpy.zeros((1, 64, 2, 2), numpy.float32))
    picture()
    for args in (["encode", "photo.png", "-o", "out.npy"], ["decode", "scaled.npy", "-o", "out.png"]):
        line = calotype.error(*args, "--model", bare, code=1)
        assert "bn.running_mean" in line and "--unscaled" in line
    assert not any(name.startswith("out") for name in calotype.files())
