import subprocess
import time

import pytest

KEYS = {
    "model", "source", "container", "family", "config", "config_inferred", "parameters", "encoder_parameters",
    "decoder_parameters", "dtype", "latent_shape", "flop", "planned_peak_bytes",
}


def test_the_embedded_model(calotype):
    info = calotype.json("info")
    assert KEYS <= set(info)
    assert info["model"] == info["source"] == info["container"] == "embedded"
    assert info["parameters"] == info["encoder_parameters"] + info["decoder_parameters"] == 4126691
    assert info["dtype"] == "BF16" and not info["config_inferred"]
    assert info["config"]["block_out_channels"] == [64, 64, 128, 128]
    assert info["latent_shape"] == ["B", 16, "H/8", "W/8"]
    assert info["flop"] is None and info["planned_peak_bytes"] is None
    assert calotype.json("info", "--model", "embedded") == info


def test_the_machine_that_a_job_would_take(calotype):
    info = calotype.json("info", "--backend", "reference")
    assert (info["backend"], info["precision"]) == ("reference", "f64")
    info = calotype.json("info", "--backend", "cpu", "--precision", "fast")
    assert (info["backend"], info["precision"], info["machine"]) == ("cpu", "fast", "CPU, fast")
    assert calotype.json("info", "--backend", "auto")["backend"] in ("cpu", "cuda")


def test_a_size_adds_flop_and_memory(calotype):
    small, large = (calotype.json("info", "--size", size) for size in ("512x512", "1024x1024"))
    assert small["latent_shape"] == [1, 16, 64, 64]
    assert 4 < large["flop"] / small["flop"] < 6  # attention is quadratic
    assert large["planned_peak_bytes"] > 2 * small["planned_peak_bytes"] > 0
    for job in ("decode", "encode"):
        assert large[job]["flop"] > 0 and large[job]["planned_peak_bytes"] > 0
    assert large["flop"] == large["decode"]["flop"]


def test_a_family_without_a_model_is_planned_without_weights(calotype):
    info = calotype.json("info", "--family", "flux", "--size", "1024x1024")
    assert info["family"] == info["model"] == "flux" and info["container"] == "none"
    assert info["decoder_parameters"] == 49545475 and info["encoder_parameters"] == 34274208
    assert abs(info["flop"] - 10.47e12) < 0.02e12 and abs(info["encode"]["flop"] - 4.88e12) < 0.02e12
    assert info["latent_space"] is None


def test_a_family_decides_over_the_config(calotype):
    calotype("convert", "-o", "own.safetensors")
    own, sd3 = (calotype.json("info", "--model", "own.safetensors", *args) for args in ([], ["--family", "sd3"]))
    assert own["family"] == "custom" and not own["family_given"]
    assert sd3["family"] == "sd3" and sd3["family_given"] and not sd3["config_inferred"]
    assert (sd3["config"]["scaling_factor"], sd3["config"]["shift_factor"]) == (1.5305, 0.0609)
    assert sd3["latent_space"] != own["latent_space"]
    assert "as --family says" in calotype("info", "--model", "own.safetensors", "--family", "sd3").stdout
    calotype("convert", "--model", "own.safetensors", "--family", "sd3", "-o", "sd3.gguf")
    assert calotype.json("info", "--model", "sd3.gguf")["latent_space"] == sd3["latent_space"]
    line = calotype.error("info", "--model", "own.safetensors", "--family", "sdxl", code=2)
    assert "own.safetensors: is not of the family sdxl" in line


def test_every_family_can_be_planned(calotype):
    for family in ("flux", "sd1", "sd2", "sdxl", "sd3", "flux2"):
        info = calotype.json("info", "--family", family, "--size", "512x512")
        assert info["flop"] > 1e12 and info["family"] == family
        assert "planned" in calotype("info", "--family", family, "--size", "64x64").stdout


def test_the_smallest_memory_works_and_less_does_not(calotype):
    args = ["info", "--size", "512x512"]
    minimum = min(calotype.json(*args)[job]["minimum_bytes"] for job in ("decode", "encode"))
    largest = max(calotype.json(*args)[job]["minimum_bytes"] for job in ("decode", "encode"))
    plan = calotype.json(*args, "--memory", largest)
    assert plan["planned_peak_bytes"] <= largest == plan["decode"]["memory_bytes"]
    line = calotype.error(*args, "--memory", minimum - 4096, code=1)
    assert str(minimum - 4096) in line


def test_less_memory_costs_work(calotype):
    wide, tight = (calotype.json("info", "--size", "1024x1024", "--memory", size) for size in ("16G", "130M"))
    assert wide["decode"]["flop_again"] == wide["spilled_bytes"] == 0
    assert tight["decode"]["flop_again"] + tight["spilled_bytes"] > 0
    assert tight["planned_peak_bytes"] <= 130 << 20 < wide["planned_peak_bytes"]


def test_odd_sizes_are_rounded_up(calotype):
    assert calotype.json("info", "--size", "500x300")["latent_shape"] == [1, 16, 38, 63]


def test_people_read_the_same(calotype):
    text = calotype("info", "--size", "640x480").stdout
    for words in ("4,126,691", "BF16", "[1, 16, 60, 80]", "GFLOP", "MiB planned", "scaling_factor: 0.597"):
        assert words in text


def test_quiet_only_checks(calotype):
    assert calotype("info", "--quiet").stdout == ""


@pytest.mark.timing
def test_it_starts_fast(calotype):
    calotype("info")
    times = []
    for _ in range(7):
        start = time.perf_counter()
        calotype("info")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


@pytest.mark.without_sanitizers  # Highway's checks are compiled then
def test_it_does_not_load_highway(calotype):
    # Its library measures a clock as it is loaded, which takes half of the start.
    loaded = subprocess.run(["ldd", calotype.path], text=True, check=True, capture_output=True).stdout
    assert "libc.so" in loaded and "libhwy" not in loaded


def test_half_a_model_can_do_half(calotype, latents, picture):
    from safetensors.numpy import load_file, save_file

    calotype("convert", "-o", "whole.safetensors", "--dtype", "f32")
    tensors = load_file(calotype.folder / "whole.safetensors")
    save_file({k: v for k, v in tensors.items() if k.startswith("decoder.")}, calotype.folder / "half.safetensors")
    info = calotype.json("info", "--model", "half.safetensors", "--size", "64x64")
    assert info["encoder_parameters"] == 0 and not info["has_encoder"] and info["has_decoder"]
    assert info["encode"] is None and info["flop"] > 0 and info["config_inferred"]
    latents()
    calotype("decode", "latents.npy", "-o", "a.png", "--model", "half.safetensors")
    assert "encoder" in calotype.error("encode", picture(), "-o", "a.npy", "--model", "half.safetensors", code=1)
