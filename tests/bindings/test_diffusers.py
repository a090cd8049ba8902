"""calotype.diffusers in the place of diffusers' own autoencoders."""

import copy
import json
import pathlib
import warnings

import calotype
import diffusers
import numpy as np
import pipelines
import pytest
import safetensors.torch
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders import vae as diffusers_vae

import calotype.diffusers as drop_in


def run(pipe, call):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(**call, num_inference_steps=2, generator=generator, output_type="np").images


@pytest.fixture
def forbid_diffusers_network(monkeypatch):
    """Makes diffusers' Encoder and Decoder raise, once it is called."""

    def forbid():
        def refuse(self, *args, **kwargs):
            raise AssertionError("diffusers' own network ran")

        monkeypatch.setattr(diffusers_vae.Encoder, "forward", refuse)
        monkeypatch.setattr(diffusers_vae.Decoder, "forward", refuse)

    return forbid


@pytest.mark.parametrize("make", pipelines.ALL, ids=lambda make: make.__name__)
def test_pipelines_give_the_pictures_of_diffusers(make, forbid_diffusers_network):
    pipe, call = make()
    expected = run(pipe, call)
    assert expected.std() > 0.03, "a picture of one grey proves nothing"
    forbid_diffusers_network()
    assert drop_in.replace_vae(pipe) is pipe
    assert type(pipe.vae).__module__ == "calotype.diffusers"
    np.testing.assert_allclose(run(pipe, call), expected, rtol=0, atol=1e-4)


def test_a_vae_loaded_from_a_folder_replaces_that_of_a_pipeline(tmp_path, forbid_diffusers_network):
    pipe, call = pipelines.z_image()
    expected = run(pipe, call)
    pipe.vae.save_pretrained(tmp_path / "vae")
    forbid_diffusers_network()
    pipe.vae = drop_in.AutoencoderKL.from_pretrained(tmp_path, subfolder="vae")
    np.testing.assert_allclose(run(pipe, call), expected, rtol=0, atol=1e-4)


def test_a_flux2_vae_loaded_from_a_folder_has_its_batch_norm(tmp_path):
    pipe, call = pipelines.flux2()
    expected = run(pipe, call)
    pipe.vae.save_pretrained(tmp_path)
    pipe.vae = drop_in.AutoencoderKLFlux2.from_pretrained(tmp_path)
    np.testing.assert_allclose(run(pipe, call), expected, rtol=0, atol=1e-4)
    with pytest.raises(calotype.Error, match="AutoencoderKLFlux2"):
        drop_in.AutoencoderKL.from_pretrained(tmp_path)


def test_a_saved_pipeline_loads_with_our_vae_and_saves_it(tmp_path, forbid_diffusers_network):
    pipe, call = pipelines.z_image()
    expected = run(pipe, call)
    pipe.save_pretrained(tmp_path / "theirs")
    ours = drop_in.AutoencoderKL.from_pretrained(tmp_path / "theirs", subfolder="vae")
    assert isinstance(ours, diffusers.ModelMixin) and isinstance(ours, diffusers.ConfigMixin)
    # Parts that a pipeline does not have must be named.
    absent = {"text_encoder": None, "tokenizer": None}
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "theirs", vae=ours, **absent)
    assert loaded.vae is ours
    loaded.save_pretrained(tmp_path / "again")
    index = json.loads((tmp_path / "again" / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"], "a folder that needs Calotype to load"
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again", **absent)
    assert type(again.vae) is diffusers.AutoencoderKL
    np.testing.assert_allclose(run(again, call), expected, rtol=0, atol=1e-6)
    forbid_diffusers_network()
    np.testing.assert_allclose(run(loaded, call), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [pipelines.sd_text2img, pipelines.flux2], ids=lambda m: m.__name__)
def test_what_is_saved_is_what_diffusers_saves(make, tmp_path):
    pipe, _ = make()
    theirs = pipe.vae
    ours = drop_in.replace_vae(pipe).vae
    ours.save_pretrained(tmp_path)
    loaded, info = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert set(ours.state_dict()) == set(theirs.state_dict())
    plain = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    for key, value in theirs.config.items():
        assert key.startswith("_") or plain(loaded.config[key]) == plain(value), key
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.num_parameters(only_trainable=True) == 0
    weights = sum(t.numel() * t.element_size() for t in theirs.state_dict().values() if t.is_floating_point())
    assert ours.get_memory_footprint() == weights
    half = copy.deepcopy(ours).half()
    half.save_pretrained(tmp_path / "half", variant="fp16")
    files = list((tmp_path / "half").glob("*.fp16.safetensors"))
    assert [t.dtype for t in safetensors.torch.load_file(files[0]).values() if t.is_floating_point()][0] == torch.float16
    with pytest.raises(calotype.UnsupportedError, match="cannot be replaced"):
        ours.load_state_dict({})
    with pytest.raises(calotype.UnsupportedError, match="no weights"):
        type(ours).from_config(ours.config)


def test_the_usual_keywords_of_diffusers_are_taken(tmp_path):
    pipelines.sd_text2img()[0].vae.save_pretrained(tmp_path / "vae")
    ours = drop_in.AutoencoderKL.from_pretrained(
        tmp_path, subfolder="vae", cache_dir=tmp_path / "cache", force_download=False, proxies=None,
        output_loading_info=False, local_files_only=None, revision=None, token=None, mirror="",
        device_map=None, max_memory=None, offload_folder=None, offload_state_dict=None,
        low_cpu_mem_usage=True, variant=None, use_safetensors=True, quantization_config=None,
        disable_mmap=False, ignore_mismatched_sizes=False, dtype=torch.float16, threads=1,
    )  # fmt: skip
    assert ours.dtype == torch.float16 and ours.job == {"threads": 1}
    for device_map in ("auto", "cpu", {"": torch.device("cpu")}):
        found = drop_in.AutoencoderKL.from_pretrained(tmp_path, device_map=device_map)
        assert found.device.type == "cpu"
    with pytest.raises(calotype.UnsupportedError, match="quantization_config"):
        drop_in.AutoencoderKL.from_pretrained(tmp_path, quantization_config={"load_in_8bit": True})
    with pytest.raises(TypeError, match="tiles"):
        drop_in.AutoencoderKL.from_pretrained(tmp_path, tiles=4)


def test_a_single_file_is_scaled_as_its_config_says(tmp_path):
    mini = pathlib.Path(__file__).parents[2] / "models" / "mini"
    file = tmp_path / "model.safetensors"
    file.symlink_to(mini / "diffusion_pytorch_model.safetensors")
    load = drop_in.AutoencoderKL.from_single_file
    assert load(file).config.scaling_factor == pytest.approx(0.3611), "what 16 channels are taken for"
    assert load(file, family="sd3").config.scaling_factor == pytest.approx(1.5305)
    whole = calotype.AutoencoderKL.from_pretrained(mini)
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "vae").symlink_to(mini)
    for config in (mini, str(mini / "config.json"), tmp_path / "repo", whole.config):
        ours = load(file, config=config, cache_dir=None, local_files_only=True, device="cpu")
        assert ours.config.scaling_factor == whole.scaling_factor
        assert ours.config.shift_factor == whole.shift_factor
    original = tmp_path / "v1.yaml"
    original.write_text("model:\n  params:\n    scale_factor: 0.25\n")
    ours = load(file, original_config=original, torch_dtype=torch.float16)
    assert ours.config.scaling_factor == 0.25 and ours.dtype == torch.float16
    with pytest.raises(calotype.NotFoundError, match="nothing is downloaded"):
        load(file, original_config="https://example.org/v1.yaml")
    z = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = whole.decode(z, unscaled=True, output="pt", clamp=False)
    for source in (file, safetensors.torch.load_file(file)):
        torch.testing.assert_close(load(source).decode(z).sample, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def pair():
    """diffusers' autoencoder and ours with its weights."""
    pipe, _ = pipelines.sd_text2img()
    theirs = pipe.vae
    drop_in.replace_vae(pipe)
    return theirs, pipe.vae


def test_encode_gives_the_posterior_of_diffusers(pair):
    theirs, ours = pair
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = theirs.encode(x).latent_dist
    found = ours.encode(x).latent_dist
    torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.std, expected.std, rtol=0, atol=1e-5)
    draw = [d.sample(torch.Generator().manual_seed(3)) for d in (found, expected)]
    torch.testing.assert_close(*draw, rtol=0, atol=1e-5)
    assert isinstance(ours.encode(x, return_dict=False), tuple)


def test_decode_keeps_dtype_and_forms_of_diffusers(pair):
    theirs, ours = pair
    z = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.decode(z).sample
    torch.testing.assert_close(ours.decode(z).sample, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        ours.decode(z, return_dict=False, generator=torch.Generator())[0], expected, rtol=0, atol=1e-4
    )
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        rounded = z.to(dtype)
        found = ours.decode(rounded).sample
        assert found.dtype == dtype
        with torch.no_grad():
            expected = theirs.decode(rounded.float()).sample.to(dtype)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_forward_goes_through_both_halves(pair):
    theirs, ours = pair
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = theirs(x, sample_posterior=True, generator=torch.Generator().manual_seed(5))
    found = ours(x, sample_posterior=True, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found.sample, expected.sample, rtol=0, atol=1e-4)


def test_the_module_has_what_pipelines_look_at(pair):
    theirs, ours = pair
    assert isinstance(ours, torch.nn.Module) and not ours.training
    assert isinstance(ours.config, FrozenDict)
    for key, value in theirs.config.items():
        assert ours.config[key] == value, key
    assert ours.config.scaling_factor == 0.18215
    assert ours.dtype == torch.float32 and ours.device == torch.device("cpu")
    assert next(iter(ours.post_quant_conv.parameters())).dtype == torch.float32
    torch.testing.assert_close(ours.post_quant_conv.weight, theirs.post_quant_conv.weight)
    assert ours.spatial_compression_ratio == 4
    half = copy.deepcopy(ours).to(torch.float16)
    assert half.dtype == torch.float16
    assert next(iter(half.post_quant_conv.parameters())).dtype == torch.float16
    assert half.to(device="meta").device.type == "meta"


def test_the_config_of_a_loaded_vae_is_that_of_diffusers(tmp_path, pair):
    theirs, _ = pair
    theirs.save_pretrained(tmp_path)
    ours = drop_in.AutoencoderKL.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    plain = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    for key, value in theirs.config.items():
        if not key.startswith("_"):
            assert plain(ours.config[key]) == plain(value), key


def test_slicing_gives_the_same_and_tiling_says_why_it_does_nothing(pair):
    _, ours = pair
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    whole = ours.decode(z).sample
    ours.enable_slicing()
    assert torch.equal(ours.decode(z).sample, whole)
    ours.disable_slicing()
    with pytest.warns(UserWarning, match="without tiles"):
        ours.enable_tiling()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.disable_tiling()
    assert torch.equal(ours.decode(z).sample, whole)


def test_inputs_that_require_gradients_are_refused(pair):
    _, ours = pair
    z = torch.zeros(1, 4, 8, 8, requires_grad=True)
    with pytest.raises(ValueError, match="requires gradients.*no_grad"):
        ours.decode(z)
    with pytest.raises(ValueError, match="requires gradients"):
        ours.encode(torch.zeros(1, 3, 8, 8, requires_grad=True))
    with torch.no_grad():
        assert not ours.decode(z).sample.requires_grad


def test_wrong_shapes_are_refused(pair):
    _, ours = pair
    with pytest.raises(ValueError, match=r"\[1, 5, 8, 8\].*\[B, 4, H, W\]"):
        ours.decode(torch.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match="multiples of 4"):
        ours.encode(torch.zeros(1, 3, 10, 8))


def test_other_autoencoders_are_refused_by_name():
    class Pipe:
        vae = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
            num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
        )  # fmt: skip

    with pytest.raises(calotype.UnsupportedError, match="AutoencoderTiny"):
        drop_in.replace_vae(Pipe())
    with pytest.raises(ValueError, match="no vae"):
        drop_in.replace_vae(object())


def test_bfloat16_weights_are_read_as_they_are(forbid_diffusers_network):
    pipe, call = pipelines.flux()
    pipe.vae.to(torch.bfloat16)
    reference = copy.deepcopy(pipe.vae).float()
    drop_in.replace_vae(pipe)
    assert pipe.vae.dtype == torch.bfloat16
    z = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference.decode(z).sample
    torch.testing.assert_close(pipe.vae.decode(z).sample, expected, rtol=0, atol=1e-4)


def test_replacing_twice_changes_nothing_more(pair):
    _, ours = pair

    class Pipe:
        vae = ours

    assert drop_in.replace_vae(Pipe()).vae is ours


def test_a_pipeline_is_converted_and_sliced_with_our_vae():
    pipe, call = pipelines.sd_text2img()
    expected = run(pipe, call)
    drop_in.replace_vae(pipe)
    pipe.to(torch.float32)
    with pytest.warns(UserWarning, match="without tiles"):
        pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    np.testing.assert_allclose(run(pipe, call), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [pipelines.sd_img2img, pipelines.flux2], ids=lambda m: m.__name__)
def test_a_pipeline_offloads_with_our_vae(make, forbid_diffusers_network):
    """accelerate's hooks, with the CPU in the place of the GPU that parts are moved to."""
    pipe, call = make()
    expected = run(pipe, call)
    forbid_diffusers_network()
    drop_in.replace_vae(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    assert hasattr(pipe.vae, "_hf_hook")
    for _ in range(2):
        np.testing.assert_allclose(run(pipe, call), expected, rtol=0, atol=1e-4)


def test_progress_of_a_pipeline_cancels_its_decode():
    pipe, call = pipelines.sd_text2img()
    drop_in.replace_vae(pipe, progress=lambda fraction, layer: False)
    with pytest.raises(calotype.CancelledError):
        run(pipe, call)
    with pytest.raises(ValueError, match="threads is 0"):
        drop_in.replace_vae(pipelines.sd_text2img()[0], threads=0)
