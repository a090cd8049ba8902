"""The committed goldens are what the installed diffusers computes."""

import importlib.util
import pathlib

import pytest

GOLDENS = pathlib.Path(__file__).resolve().parent.parent / "goldens"
spec = importlib.util.spec_from_file_location("make_goldens", GOLDENS / "make.py")
make_goldens = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_goldens)


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_golden_is_what_diffusers_computes(path):
    assert make_goldens.check(path) <= 1e-12


def test_every_model_has_its_golden():
    assert {path.stem for path in GOLDENS.glob("*.safetensors")} == set(make_goldens.MODELS)
