"""The fragments of code in README.md and calotype.h, wrapped in what they take for granted, run."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pipelines
import pytest
import torch
import transformers
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
MINI = ROOT / "models" / "mini"


def fragment(language):
    """The one fragment of a language in README.md."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(found) == 1
    return found[0]


def header_fragment():
    """The indented lines of calotype.h's first comment."""
    comment = (ROOT / "include/calotype/calotype.h").read_text().split("*/")[0]
    lines = re.findall(r"^ \*   (.*)", comment, re.M)
    assert len(lines) > 4
    return "\n".join(lines)


@pytest.fixture
def machine(tmp_path, monkeypatch, photo, calotype):
    """A folder to work in, with the photograph and the models that the fragments name."""
    snapshot = tmp_path / "hub" / "models--Tongyi-MAI--Z-Image" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "vae").symlink_to(MINI)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    calotype("convert", "--quiet", "--ollama", "z-image")
    photo.resize((64, 64)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flags(program, what):
    """What pkg-config says of the library in the build folder."""
    environment = {**os.environ, "PKG_CONFIG_PATH": str(program.parent / "shared")}
    done = subprocess.run(
        ["pkg-config", what, "calotype"], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def build_and_run(program, folder, compiler, name, code):
    (folder / name).write_text(code)
    arguments = [*flags(program, "--cflags"), "-Wall", "-Werror", name, "-o", "fragment"]
    subprocess.run([*compiler, *arguments, *flags(program, "--libs")], cwd=folder, check=True)
    subprocess.run([folder / "fragment"], cwd=folder, check=True)


C = """
#include <calotype/calotype.h>
#include <stdio.h>
int main(void) {
  enum { kImage = 16 * 16 * 3 };
  static float latents[2 * 2 * 16];
  static uint8_t pixels[kImage];
  const calotype_shape latents_shape = {1, 2, 2, 16};
  const size_t count = kImage;
  calotype_shape image_shape;
%s
  fprintf(stderr, "%%s", calotype_last_error());
  return calotype_last_error()[0] != 0;
}
"""


@pytest.mark.parametrize(
    "code, out", [(fragment("c"), "back.png"), (header_fragment(), "out.png")], ids=["readme", "header"]
)
def test_the_c_fragments_run(program, machine, code, out):
    freed = "" if "calotype_free(" in code else "calotype_free(model);"
    build_and_run(program, machine, ["cc", "-std=c99"], "fragment.c", C % (code + freed))
    assert Image.open(machine / out).size == (16, 16)


CPP = """
#include <calotype/autoencoder_kl.h>
#include <calotype/image.h>
int main() {
%s
}
"""


def test_the_cpp_fragment_runs(program, machine):
    code = CPP % fragment("cpp")
    build_and_run(program, machine, ["c++", "-std=c++20"], "fragment.cc", code)
    assert Image.open(machine / "back.png").size == (64, 64)


def test_the_python_fragment_runs(machine):
    import calotype.diffusers

    pipe, _ = pipelines.sd_text2img()
    names = {"calotype": calotype, "image": Image.open("photo.jpg"), "pipe": pipe}
    exec(compile(fragment("python"), "README.md", "exec"), names)
    assert names["latents"].shape == (1, 16, 8, 8) and names["image"].size == (64, 64)
    assert type(pipe.vae).__module__ == "calotype.diffusers"


GO = """package main

import (
	"calotype"
	"context"
)

func main() {
	ctx, latents := context.Background(), calotype.NewTensor(1, 16, 2, 2)
%s
	if err != nil || picture.Bounds().Dx() != 16 {
		panic(err)
	}
}
"""


def test_the_go_fragment_runs(program, machine):
    (machine / "main.go").write_text(GO % fragment("go"))
    (machine / "go.mod").write_text(
        f"module fragment\n\ngo 1.19\n\nrequire calotype v0.1.0\n\nreplace calotype => {ROOT / 'go'}\n"
    )
    environment = {
        **os.environ,
        "PKG_CONFIG_PATH": str(program.parent / "shared"),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
    }
    subprocess.run(["go", "run", "."], cwd=machine, env=environment, check=True)


def save_pipeline(folder):
    """A pipeline with a text encoder of its own, random and tiny, as a user would have one."""
    pipe, _ = pipelines.sd_text2img()
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefgh", *(f"{c}</w>" for c in "abcdefgh")]
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=8
    )
    torch.manual_seed(4)
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=16, projection_dim=16,
            num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=8,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip
    pipe.register_modules(tokenizer=tokenizer, text_encoder=encoder)
    pipe.save_pretrained(folder)


def test_the_pipeline_example_runs(tmp_path):
    save_pipeline(tmp_path / "model")
    out = tmp_path / "out.png"
    example = ROOT / "examples" / "python" / "pipeline.py"
    subprocess.run([sys.executable, example, tmp_path / "model", "a face", out], check=True)
    picture = Image.open(out)
    assert picture.size == (64, 64) and np.asarray(picture).std() > 3
