"""The ComfyUI nodes, called as ComfyUI's executor calls them."""

import importlib.util
import inspect
import pathlib
import subprocess
import sys
import types

import calotype
import numpy as np
import pipelines
import pytest
import safetensors.torch
import torch

FOLDER = pathlib.Path(__file__).parents[2] / "python" / "comfyui"


@pytest.fixture(scope="module")
def nodes():
    """The package, imported as ComfyUI imports a folder of custom_nodes."""
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_calotype", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def execute(nodes, name, **inputs):
    """What ComfyUI's executor does with a node."""
    node = nodes.NODE_CLASS_MAPPINGS[name]
    types_of = node.INPUT_TYPES()
    declared = {**types_of.get("required", {}), **types_of.get("optional", {})}
    assert set(types_of.get("required", {})) <= set(inputs) <= set(declared)
    result = getattr(node(), node.FUNCTION)(**inputs)
    assert isinstance(result, tuple) and len(result) == len(node.RETURN_TYPES)
    return result[0]


def test_nodes_declare_themselves_as_comfyui_expects(nodes):
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(nodes.NODE_DISPLAY_NAME_MAPPINGS)
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        types_of = node.INPUT_TYPES()
        assert set(types_of) <= {"required", "optional", "hidden"}
        names = {name for group in types_of.values() for name in group}
        for group in types_of.values():
            for kind, *options in group.values():
                assert isinstance(kind, (str, list))
                assert all(isinstance(option, dict) for option in options)
        method = getattr(node, node.FUNCTION)
        assert set(inspect.signature(method).parameters) - {"self"} == names
        assert isinstance(node.RETURN_TYPES, tuple) and isinstance(node.CATEGORY, str)


def test_pictures_round_trip_through_the_nodes(nodes, photo):
    vae = execute(nodes, "CalotypeVAELoader", model="embedded")
    pixels = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 255)[None, :128, :96]
    latent = execute(nodes, "CalotypeVAEEncode", pixels=pixels, vae=vae)
    assert latent["samples"].shape == (1, 16, 16, 12)
    image = execute(nodes, "CalotypeVAEDecode", samples=latent, vae=vae)
    assert image.shape == pixels.shape and image.dtype == torch.float32
    assert 0 <= image.min() and image.max() <= 1
    assert (image - pixels).abs().mean() < 0.05


def test_latents_are_raw_z(nodes, photo):
    vae = execute(nodes, "CalotypeVAELoader", model="embedded")
    pixels = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 255)[None, :64, :64]
    samples = execute(nodes, "CalotypeVAEEncode", pixels=pixels, vae=vae)["samples"]
    z = calotype.AutoencoderKL.from_pretrained().posterior(pixels.numpy()).mean
    np.testing.assert_array_equal(samples.numpy(), z)


def test_sides_that_do_not_divide_are_cropped_as_comfyui_does(nodes):
    vae = execute(nodes, "CalotypeVAELoader", model="embedded", threads=1, memory="2G")
    pixels = torch.rand(1, 37, 50, 4, generator=torch.Generator().manual_seed(0))
    samples = execute(nodes, "CalotypeVAEEncode", pixels=pixels, vae=vae)["samples"]
    cropped = execute(nodes, "CalotypeVAEEncode", pixels=pixels[:, 2:34, 1:49, :3], vae=vae)
    assert torch.equal(samples, cropped["samples"])


def test_latent_files_round_trip_with_the_program(nodes, photo, tmp_path, program):
    """SaveLatent's file to the program, and the program's file to LoadLatent."""
    vae = execute(nodes, "CalotypeVAELoader", model="embedded")
    pixels = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 255)[None, :64, :64]
    samples = execute(nodes, "CalotypeVAEEncode", pixels=pixels, vae=vae)["samples"]
    saved = tmp_path / "graph.latent"
    safetensors.torch.save_file(
        {"latent_tensor": samples.contiguous(), "latent_format_version_0": torch.tensor([])}, saved
    )
    subprocess.run([program, "decode", "-q", saved, "-o", tmp_path / "a.npy"], check=True)
    image = execute(nodes, "CalotypeVAEDecode", samples={"samples": samples}, vae=vae)
    by_program = np.clip(np.load(tmp_path / "a.npy") / 2 + 0.5, 0, 1)
    np.testing.assert_allclose(image.numpy(), by_program, rtol=0, atol=1e-6)

    photo.crop((0, 0, 64, 64)).save(tmp_path / "crop.png")
    subprocess.run(
        [program, "encode", "-q", tmp_path / "crop.png", "-o", tmp_path / "b.latent"], check=True
    )
    loaded = safetensors.torch.load_file(tmp_path / "b.latent")
    assert "latent_format_version_0" in loaded
    torch.testing.assert_close(loaded["latent_tensor"].float(), samples, rtol=0, atol=1e-5)


def test_a_vae_of_comfyui_lends_its_weights(nodes):
    pipe, _ = pipelines.flux()
    theirs = pipe.vae

    class ComfyVAE:
        calls = 0

        def get_sd(self):
            ComfyVAE.calls += 1
            return theirs.state_dict()

    # Inferred configs have the widths of the tensors but groups of 32, as every real model.
    vae = ComfyVAE()
    with pytest.raises(calotype.Error):
        execute(nodes, "CalotypeVAEDecode", samples={"samples": torch.zeros(1, 16, 2, 2)}, vae=vae)
    real = calotype.AutoencoderKL.from_pretrained()

    class Embedded:
        def get_sd(self):
            names = network_names(real)
            return {n: torch.from_numpy(real._model.tensor(n)[0]).reshape(s) for n, s in names}

    samples = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    graph_vae = Embedded()
    found = execute(nodes, "CalotypeVAEDecode", samples={"samples": samples}, vae=graph_vae)
    expected = real.decode(samples, output="np", unscaled=True)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


def network_names(vae):
    """Names and shapes of the embedded model's tensors."""
    path = pathlib.Path(__file__).parents[2] / "models/mini/diffusion_pytorch_model.safetensors"
    with safetensors.safe_open(path, "np") as file:
        return [(name, file.get_slice(name).get_shape()) for name in file.keys()]


def test_flux2_latents_are_normalised_patches(nodes):
    from custom_nodes_calotype.vae import CalotypeVAE

    pipe, _ = pipelines.flux2()
    native = calotype.AutoencoderKL.from_tensors(
        {n: t for n, t in pipe.vae.state_dict().items() if t.is_floating_point()},
        {**pipe.vae.config, "_class_name": "AutoencoderKLFlux2"},
    )
    vae = CalotypeVAE(native)
    pixels = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    samples = execute(nodes, "CalotypeVAEEncode", pixels=pixels, vae=vae)["samples"]
    assert samples.shape == (1, 128, 4, 4)  # of three levels: z at a quarter, in 2x2 patches
    image = execute(nodes, "CalotypeVAEDecode", samples={"samples": samples}, vae=vae)
    with torch.no_grad():
        z = pipe.vae.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mode()
        expected = pipe.vae.decode(z).sample.movedim(1, -1)
    torch.testing.assert_close(image, (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


def test_comfyuis_own_nodes_can_use_our_vae(nodes):
    vae = execute(nodes, "CalotypeVAELoader", model="embedded")
    vae.throw_exception_if_invalid()
    assert vae.spacial_compression_decode() == vae.spacial_compression_encode() == 8
    assert vae.temporal_compression_decode() is None
    samples = torch.zeros(1, 16, 4, 4)
    whole = vae.decode(samples)
    assert torch.equal(vae.decode_tiled(samples, tile_x=64, tile_y=64, overlap=16), whole)
    assert torch.equal(vae.encode_tiled(whole, tile_x=512, tile_y=512), vae.encode(whole))


def test_comfyuis_bar_moves_and_its_interrupt_stops_a_job(nodes, monkeypatch):
    class Interrupted(Exception):
        pass

    seen = []
    comfy = types.ModuleType("comfy")
    comfy.utils = types.ModuleType("comfy.utils")
    comfy.model_management = types.ModuleType("comfy.model_management")

    class ProgressBar:
        def __init__(self, total):
            assert total == 100

        def update_absolute(self, value, total):
            seen.append(value)

    def check():
        if len(seen) > 2:
            raise Interrupted

    comfy.utils.ProgressBar = ProgressBar
    comfy.model_management.throw_exception_if_processing_interrupted = check
    for name in ("comfy", "comfy.utils", "comfy.model_management"):
        monkeypatch.setitem(sys.modules, name, comfy if name == "comfy" else getattr(comfy, name[6:]))
    vae = execute(nodes, "CalotypeVAELoader", model="embedded")
    with pytest.raises(Interrupted):
        vae.decode(torch.zeros(1, 16, 8, 8))
    assert seen == sorted(seen)


def test_the_loader_offers_the_files_of_comfyui(nodes, monkeypatch, tmp_path):
    folder_paths = types.ModuleType("folder_paths")
    mini = pathlib.Path(__file__).parents[2] / "models/mini/diffusion_pytorch_model.safetensors"
    folder_paths.get_filename_list = lambda folder: ["mini.safetensors", "old.ckpt"] * (folder == "vae")
    folder_paths.get_full_path = lambda folder, name: str(mini)
    monkeypatch.setitem(sys.modules, "folder_paths", folder_paths)
    offered = nodes.NODE_CLASS_MAPPINGS["CalotypeVAELoader"].INPUT_TYPES()["required"]["model"][0]
    assert "embedded" in offered and "vae/mini.safetensors" in offered
    assert not any("old.ckpt" in name for name in offered)
    vae = execute(nodes, "CalotypeVAELoader", model="vae/mini.safetensors")
    assert vae.latent_channels == 16


# What comfy.sd.VAE of ComfyUI has (a list kept by hand), and what its nodes and those of
# others use of it. Left out: what is of audio and video alone (decode_tiled_1d, decode_tiled_3d, …).
COMFYUI_METHODS = """
    decode decode_tiled decode_tiled_ encode encode_tiled encode_tiled_ get_sd is_dynamic
    memory_used_decode memory_used_encode model_size process_input process_output
    spacial_compression_decode spacial_compression_encode temporal_compression_decode
    throw_exception_if_invalid vae_encode_crop_pixels vae_output_dtype
""".split()
COMFYUI_ATTRIBUTES = """
    crop_input device disable_offload downscale_index_formula downscale_ratio extra_1d_channel
    first_stage_model latent_channels latent_dim not_video output_channels output_device patcher size
    upscale_index_formula upscale_ratio vae_dtype working_dtypes
""".split()


def test_the_object_has_what_a_vae_of_comfyui_has(nodes, photo, monkeypatch):
    made = []
    patcher = types.ModuleType("comfy.model_patcher")
    patcher.ModelPatcher = lambda model, **options: made.append(model) or model
    comfy = types.ModuleType("comfy")
    comfy.model_patcher = patcher
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.model_patcher", patcher)
    vae = execute(nodes, "CalotypeVAELoader", model="embedded")
    for name in COMFYUI_METHODS:
        assert callable(getattr(vae, name)), name
    for name in COMFYUI_ATTRIBUTES:
        assert hasattr(vae, name), name
    assert isinstance(made[0], torch.nn.Module) and not list(made[0].parameters())

    pixels = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 255)[None, :64, :48]
    samples = vae.encode(pixels)
    image = vae.decode(samples)
    network = vae.first_stage_model
    z = network.encode(vae.process_input(pixels.movedim(-1, 1)))
    torch.testing.assert_close(z, samples, rtol=0, atol=1e-5)
    signed = network.decode(samples.half())
    assert signed.dtype == torch.float16
    found = vae.process_output(network.decode(samples)).movedim(1, -1)
    torch.testing.assert_close(found, image, rtol=0, atol=1e-6)
    assert torch.equal(vae.decode_tiled_(samples, tile_x=64, overlap=8).movedim(1, -1), image)
    assert torch.equal(vae.encode_tiled_(pixels.movedim(-1, 1)), samples)
    assert vae.memory_used_decode(samples.shape, torch.float32) > image.numel() * 4
    assert vae.memory_used_encode((1, 3, 64, 48), torch.float32) > image.numel() * 4


def test_saved_weights_make_the_same_model(nodes, tmp_path):
    """What the node VAESave does."""
    vae = execute(nodes, "CalotypeVAELoader", model="embedded")
    safetensors.torch.save_file(vae.get_sd(), tmp_path / "saved.safetensors")
    assert vae.model_size() == sum(t.nbytes for t in vae.get_sd().values())
    again = calotype.AutoencoderKL.from_pretrained(tmp_path / "saved.safetensors")
    z = np.random.default_rng(0).standard_normal((1, 16, 4, 4), dtype=np.float32)
    found = again.decode(z, unscaled=True, output="np")
    np.testing.assert_array_equal(found, vae.vae.decode(z, unscaled=True, output="np"))
