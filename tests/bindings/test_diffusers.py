"""calotype.diffusers in the place of diffusers' own autoencoders."""

import copy
import warnings

import calotype
import diffusers
import numpy as np
import pipelines
import pytest
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


def test_a_pipeline_moves_and_offloads_with_our_vae():
    pipe, call = pipelines.sd_text2img()
    expected = run(pipe, call)
    drop_in.replace_vae(pipe)
    pipe.to(torch.float32)
    with pytest.warns(UserWarning, match="without tiles"):
        pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    np.testing.assert_allclose(run(pipe, call), expected, rtol=0, atol=1e-4)


def test_progress_of_a_pipeline_cancels_its_decode():
    pipe, call = pipelines.sd_text2img()
    drop_in.replace_vae(pipe, progress=lambda fraction, layer: False)
    with pytest.raises(calotype.CancelledError):
        run(pipe, call)
    with pytest.raises(ValueError, match="threads is 0"):
        drop_in.replace_vae(pipelines.sd_text2img()[0], threads=0)
