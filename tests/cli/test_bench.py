import time

import pytest

SMALL = ["--size", "256x256"]


@pytest.mark.parametrize("job", ["decode", "encode"])
def test_the_report(calotype, job):
    report = calotype.json("bench", job, *SMALL, "--runs", "3", "--layers")
    assert report["job"] == job and report["runs"] == 3 and len(report["runs_s"]) == 3
    assert sorted(report["runs_s"])[1] == report["median_s"]
    assert report["min_s"] <= report["median_s"] <= report["max_s"]
    assert report["peak_resident_bytes"] > 0 and report["planned_peak_bytes"] > 0
    assert report["fma_peak_gflop_per_s"] > 1 and report["memory_gbyte_per_s"] > 0.1
    layers = report["layers"]
    assert len(layers) > 10 and all(layer["name"].startswith(job + "r.") for layer in layers if job == "decode")
    assert sum(layer["seconds"] for layer in layers) <= 1.05 * report["max_s"]
    assert all(layer["means"] and layer["algorithm"] for layer in layers)
    assert abs(sum(layer["flop"] for layer in layers) / report["flop"] - 1) < 0.01


def test_decode_is_the_default_and_layers_are_left_out(calotype):
    report = calotype.json("bench", *SMALL, "--runs", "1")
    assert report["job"] == "decode" and "layers" not in report


def test_the_flop_are_those_of_info(calotype):
    report = calotype.json("bench", *SMALL, "--runs", "1", "--threads", "1")
    assert report["flop"] == calotype.json("info", *SMALL)["flop"] and report["threads"] == 1


@pytest.mark.timing
def test_the_median_is_the_time_of_a_run(calotype):
    def wall(runs):
        start = time.perf_counter()
        report = calotype.json("bench", *SMALL, "--runs", runs)
        return time.perf_counter() - start, report["median_s"]

    # The least of a few: others use the machine too.
    ones, fours = [wall(1) for _ in range(4)], [wall(4) for _ in range(4)]
    one, (four, median) = min(ones)[0], min(fours)
    assert 0.6 < (four - one) / 3 / median < 1.7


def test_random_weights_of_a_family(calotype):
    report = calotype.json("bench", "--random", "1", "--size", "64x64", "--runs", "1")
    assert "flux" in report["model"] and "seed 1" in report["model"]
    assert report["flop"] == calotype.json("bench", "--family", "flux", "--size", "64x64", "--runs", "1")["flop"]
    # 10.47 TFLOP at 1024x1024, of which attention (quadratic) is 0.55.
    assert 9.8e12 / 256 < report["flop"] < 10.5e12 / 256


def test_people_read_a_table(calotype):
    text = calotype("bench", *SMALL, "--runs", "1", "--layers").stdout
    for words in ("median ", "FMA peak", "measured limits: ", "peak resident memory ", "of limit", "decoder.conv_out"):
        assert words in text
