import json
import resource
import signal

import pytest
from safetensors import safe_open

TARGETS = {
    "diffusers": ["-o", "out/"],
    "safetensors": ["-o", "out.safetensors"],
    "original": ["-o", "original.safetensors", "--keys", "original"],
    "gguf": ["-o", "out.gguf"],
    "ollama": ["--ollama", "test-vae"],
}


@pytest.fixture
def store(calotype):
    calotype.environment["OLLAMA_MODELS"] = str(calotype.folder / "store")
    (calotype.folder / "store").mkdir()
    return calotype.folder / "store"


def model_of(target):
    return TARGETS[target][1]


@pytest.mark.parametrize("target", TARGETS)
def test_every_container_gives_the_same_pictures(calotype, store, latents, target):
    latents()
    report = calotype.json("convert", *TARGETS[target])
    assert report["target"] == model_of(target)
    info = calotype.json("info", "--model", model_of(target))
    assert info["container"] == ("safetensors" if target == "original" else target)
    embedded = calotype.json("info")
    for key in ("parameters", "dtype", "config", "latent_space", "config_inferred"):
        assert info[key] == embedded[key], key
    calotype("decode", "latents.npy", "-o", "a.npy")
    calotype("decode", "latents.npy", "-o", "b.npy", "--model", model_of(target))
    assert (calotype.folder / "a.npy").read_bytes() == (calotype.folder / "b.npy").read_bytes()


def test_a_full_disk_leaves_no_blobs_that_are_new(calotype, store):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    blobs = store / "blobs"
    line = calotype.error("convert", "--ollama", "test-vae", code=1, preexec_fn=limit)
    assert "too large" in line.lower() and list(blobs.iterdir()) == []
    calotype("convert", "--ollama", "first", "-q")
    before = sorted(blobs.iterdir())
    largest = max(before, key=lambda blob: blob.stat().st_size)
    largest.unlink()
    calotype.error("convert", "--ollama", "second", code=1, preexec_fn=limit)
    assert sorted(blobs.iterdir()) == [blob for blob in before if blob != largest]


def test_names_of_the_tensors(calotype):
    names = {}
    for keys in ("diffusers", "original"):
        calotype("convert", "-o", f"{keys}.safetensors", "--keys", keys)
        with safe_open(calotype.folder / f"{keys}.safetensors", "np") as file:
            names[keys] = set(file.keys())
    assert "decoder.up_blocks.0.resnets.0.conv1.weight" in names["diffusers"]
    assert "decoder.up.3.block.0.conv1.weight" in names["original"]


@pytest.mark.parametrize("dtype, wanted", [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")])
@pytest.mark.parametrize("name", ["out/", "out.safetensors", "out.gguf"])
def test_dtype(calotype, name, dtype, wanted):
    calotype("convert", "-o", name, "--dtype", dtype)
    assert calotype.json("info", "--model", name)["dtype"] == wanted


def test_q8_0(calotype):
    report = calotype.json("convert", "-o", "out.gguf", "--dtype", "q8_0")
    info = calotype.json("info", "--model", "out.gguf")
    assert "Q8_0" in info["dtype"] and report["bytes"] < 8253382


def test_existing_folders_and_names_are_kept_without_force(calotype, store):
    for args in (["-o", "out/"], ["--ollama", "name:tag"]):
        calotype("convert", *args)
        calotype.error("convert", *args, code=1)
        calotype("convert", *args, "--force")


@pytest.mark.parametrize("name", ["own.safetensors", "own.gguf", "own/"])
def test_a_model_is_not_written_over_itself_without_force(calotype, name):
    calotype("convert", "-o", name)
    target = name + ("diffusion_pytorch_model.safetensors" if name == "own/" else "")
    before = (calotype.folder / target).read_bytes()
    (calotype.folder / "link").symlink_to(calotype.folder / name)
    for model in (name, "link", target):
        line = calotype.error("convert", "--model", model, "-o", target, "--dtype", "f32", code=2)
        assert "is the input itself" in line and "--force" in line
        assert (calotype.folder / target).read_bytes() == before
    calotype("convert", "--model", name, "-o", target, "--dtype", "f32", "--force")
    assert calotype.json("info", "--model", name)["dtype"] == "F32"


def test_one_file_that_is_named_is_overwritten(calotype):
    (calotype.folder / "out.safetensors").write_text("old")
    calotype("convert", "-o", "out.safetensors")
    assert (calotype.folder / "out.safetensors").stat().st_size > 8_000_000


def test_verify_finds_a_blob_that_was_changed(calotype, store):
    calotype("convert", "--ollama", "test-vae")
    calotype("info", "--model", "test-vae", "--verify")
    blob = max((store / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    calotype("info", "--model", "test-vae")
    line = calotype.error("info", "--model", "test-vae", "--verify", code=1)
    assert blob.name.removeprefix("sha256-")[:12] in line


def test_list_knows_what_it_finds(calotype, store):
    (embedded,) = calotype.json("list")["models"]
    assert embedded["name"] == embedded["container"] == "embedded" and embedded["problem"] is None
    calotype("convert", "--ollama", "test-vae")
    models = {m["name"]: m for m in calotype.json("list")["models"]}
    assert len(models) == 2
    (name,) = set(models) - {"embedded"}
    assert "test-vae" in name and models[name]["container"] == "ollama" and models[name]["bytes"] > 8_000_000
    assert calotype("list", "--quiet").stdout.splitlines() == ["embedded", name]
    for quiet_name in calotype("list", "--quiet").stdout.splitlines():
        calotype("info", "--model", quiet_name)
    assert name in calotype("list").stdout


def test_list_says_what_is_wrong_with_a_model(calotype, store):
    calotype("convert", "--ollama", "test-vae")
    manifest = next(p for p in (store / "manifests").rglob("*") if p.is_file())
    content = json.loads(manifest.read_text())
    content["layers"][0]["digest"] = "sha256:" + "0" * 64
    manifest.write_text(json.dumps(content))
    broken = [m for m in calotype.json("list")["models"] if m["container"] == "ollama"]
    assert len(broken) == 1 and broken[0]["problem"]
    assert calotype("list", "--quiet").stdout.splitlines() == ["embedded"]
    assert "unusable: " in calotype("list").stdout


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_pickles_are_refused(calotype, name):
    (calotype.folder / name).write_bytes(b"\x80\x02}q\x00.")
    assert name in calotype.error("convert", "--model", name, "-o", "out.safetensors", code=1)
