"""What `calotype convert` writes, read by the packages that own the formats."""

import json

import gguf
import numpy as np
import pytest
import torch
from checkpoints import original_state
from diffusers import AutoencoderKL, AutoencoderKLFlux2
from random_vae import blocks, build
from safetensors import safe_open
from safetensors.torch import load_file

# Every width a multiple of 32, so that Q8_0 can hold it, and four levels, as the tables of original
# names in these tests have.
SMALL = {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1, "norm_num_groups": 32,
         "sample_size": 64, **blocks(4)}
CONFIGS = {
    "kl": {"_class_name": "AutoencoderKL", "latent_channels": 4, "scaling_factor": 0.25,
           "shift_factor": 0.5, **SMALL},
    "flux2": {"_class_name": "AutoencoderKLFlux2", "latent_channels": 8, **SMALL},
}
CLASSES = {"kl": AutoencoderKL, "flux2": AutoencoderKLFlux2}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(params=CONFIGS)
def source(request, tmp_path):
    """(name, module, folder): a model of bfloat16 weights as diffusers saves it."""
    vae = build(CONFIGS[request.param], np.random.default_rng(5)).to(torch.bfloat16)
    vae.save_pretrained(tmp_path / "source")
    return request.param, vae, tmp_path / "source"


def expect_same(state, truth):
    """Bit for bit, dtypes too."""
    assert state.keys() == truth.keys()
    for name, tensor in truth.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


def converted(state, dtype):
    """With the weights in another dtype; the statistics that define FLUX.2's latents keep theirs."""
    return {name: tensor if name.startswith("bn.") else tensor.to(DTYPES[dtype])
            for name, tensor in state.items()}


def weights(state):
    """Without the counter of training steps, which no picture depends on."""
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


def test_diffusers_loads_the_folder_that_convert_writes(source, calotype, tmp_path):
    name, vae, folder = source
    calotype("convert", "--model", folder, "-o", f"{tmp_path}/out/")
    loaded = CLASSES[name].from_pretrained(tmp_path / "out", torch_dtype=torch.bfloat16)
    expect_same(loaded.state_dict(), vae.state_dict())

    def fields(module):  # a list is as good as a tuple
        return json.loads(json.dumps({k: v for k, v in module.config.items()
                                      if not k.startswith("_")}))

    assert fields(loaded) == fields(vae)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_single_file_holds_the_weights_rounded_once(dtype, source, calotype, tmp_path):
    _, vae, folder = source
    calotype("convert", "--model", folder, "-o", tmp_path / "out.safetensors", "--dtype", dtype)
    expect_same(load_file(tmp_path / "out.safetensors"), converted(vae.state_dict(), dtype))


def test_diffusers_loads_the_new_model_from_a_folder_that_held_another(source, calotype, tmp_path):
    name, vae, folder = source
    old = build(CONFIGS[name], np.random.default_rng(6)).to(torch.bfloat16)
    old.save_pretrained(tmp_path / "out", max_shard_size="100KB")
    old.save_pretrained(tmp_path / "out", variant="fp16")
    assert len(list((tmp_path / "out").glob("*-of-*"))) > 1
    calotype("convert", "--model", folder, "-o", f"{tmp_path}/out/", "--force")
    for variant in (None, "fp16"):
        try:
            loaded = CLASSES[name].from_pretrained(tmp_path / "out", variant=variant,
                                                   torch_dtype=torch.bfloat16)
        except OSError:  # no such variant any more
            assert variant
        else:
            expect_same(loaded.state_dict(), vae.state_dict())


def latent_space(calotype, model):
    return json.loads(calotype("info", "--model", model, "--json"))["latent_space"]


@pytest.mark.parametrize("name", ["out.safetensors", "out.gguf", "out/"])
def test_no_dtype_changes_the_latent_space(name, calotype, tmp_path):
    vae = build(CONFIGS["flux2"], np.random.default_rng(6))  # statistics that no half holds
    vae.save_pretrained(tmp_path / "source")
    truth = latent_space(calotype, tmp_path / "source")
    for dtype in DTYPES:
        calotype("convert", "--model", tmp_path / "source", "-o", f"{tmp_path}/{name}", "--dtype",
                 dtype, "--force")
        assert latent_space(calotype, tmp_path / name) == truth, dtype


def test_a_single_file_holds_the_original_names(source, calotype, tmp_path):
    name, vae, folder = source
    out = tmp_path / "out.safetensors"
    calotype("convert", "--model", folder, "-o", out, "--keys", "original")
    truth = original_state(vae.state_dict(), flux2=name == "flux2")
    expect_same(load_file(out), truth)
    with safe_open(out, "pt") as file:
        config = json.loads(file.metadata()["calotype.config"])
    assert config["block_out_channels"] == SMALL["block_out_channels"]
    # And Calotype itself makes the folder of it again.
    calotype("convert", "--model", out, "-o", f"{tmp_path}/back/")
    loaded = CLASSES[name].from_pretrained(tmp_path / "back", torch_dtype=torch.bfloat16)
    expect_same(loaded.state_dict(), vae.state_dict())


def gguf_tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gguf_package_reads_the_same_numbers(dtype, source, calotype, tmp_path):
    _, vae, folder = source
    calotype("convert", "--model", folder, "-o", tmp_path / "out.gguf", "--dtype", dtype)
    tensors = gguf_tensors(tmp_path / "out.gguf")
    state = converted(weights(vae.state_dict()), dtype)
    truth = {name: tensor.float() for name, tensor in state.items()}
    assert tensors.keys() == truth.keys()
    for name, values in truth.items():
        tensor = tensors[name]
        assert list(reversed(tensor.shape.tolist())) == list(values.shape), name
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(numbers.reshape(values.shape), values.numpy()), name


def test_the_gguf_package_quantises_to_the_same_bytes(source, calotype, tmp_path):
    _, vae, folder = source
    calotype("convert", "--model", folder, "-o", tmp_path / "out.gguf", "--dtype", "q8_0")
    tensors = gguf_tensors(tmp_path / "out.gguf")
    truth = weights(vae.state_dict())
    assert tensors.keys() == truth.keys()
    quantised = 0
    for name, values in truth.items():
        tensor, values = tensors[name], values.float().numpy()
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0:
            quantised += 1
            blocks_of_32 = gguf.quants.quantize(values.reshape(-1, 32), tensor.tensor_type)
            assert np.array_equal(np.asarray(tensor.data).reshape(-1), blocks_of_32.reshape(-1)), name
        else:  # norms and biases, as they are
            numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(numbers.reshape(values.shape), values), name
    assert quantised > 20
