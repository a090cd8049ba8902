"""calotype.AutoencoderKL: how jobs run and end."""

import _thread
import signal
import subprocess
import sys
import threading
import time

import calotype
import numpy as np
import pytest
import torch


def test_progress_rises_to_one_and_false_cancels(vae, latents):
    seen = []
    vae.decode(latents, progress=lambda fraction, layer: seen.append((fraction, layer)))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
    assert any(layer.startswith("decoder.") for _, layer in seen)
    with pytest.raises(calotype.CancelledError):
        vae.decode(latents, progress=lambda fraction, layer: False)


def test_what_the_callback_raises_comes_out(vae, latents):
    class Mine(Exception):
        pass

    def raises(fraction, layer):
        raise Mine("stop")

    with pytest.raises(Mine, match="stop"):
        vae.decode(latents, progress=raises)
    vae.decode(latents)  # and the model works on


@pytest.fixture
def interruptible():
    """A parent may have had SIGINT ignored, as shells do for what they run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def full_width():
    """A decoder of FLUX.1's size with random weights."""
    import diffusers

    config = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    with torch.device("meta"):
        shapes = diffusers.AutoencoderKL(**config).state_dict()
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(tuple(shape.shape), dtype=np.float32) / 64
        for name, shape in shapes.items()
        if name.startswith("decoder.")
    }
    return calotype.AutoencoderKL.from_tensors(tensors, {**config, "_class_name": "AutoencoderKL"})


@pytest.mark.parametrize("sides, memory", [((32, 32), None), ((192, 192), "1.3G"), ((16, 512), None)])
def test_a_job_looks_for_interrupts_every_100_ms(full_width, sides, memory):
    """By the time of the process, which other programs do not lengthen: the largest gap between
    calls of progress, planning and the preparation of the widest weights among them."""
    z = np.random.default_rng(0).standard_normal((1, 16, *sides), dtype=np.float32)
    threads = 2
    entering, inside, last = [], [], [time.process_time(), None]

    def progress(fraction, layer):
        gap = (time.process_time() - last[0]) / threads
        (inside if layer == last[1] else entering).append((gap, layer))
        last[:] = time.process_time(), layer
        # The rest of a large picture is more of the same.
        go_on = sides == (32, 32) or not layer.startswith("decoder.up_blocks.1")
        return go_on and (memory is None or layer == "planning")

    try:
        full_width.decode(z, output="np", threads=threads, memory=memory, progress=progress)
    except calotype.CancelledError:
        pass
    entering.append(((time.process_time() - last[0]) / threads, "the end"))
    print(max(entering), max(inside))
    assert max(entering + inside)[0] < 0.1 and len(inside) > 5


def test_an_interrupt_stops_a_decode_within_100_ms(vae, interruptible):
    large = np.random.default_rng(0).standard_normal((1, 16, 192, 192), dtype=np.float32)
    waits, worked = [], []
    for delay in (0.3, 0.5, 0.8):
        fired = []

        def interrupt(fired=fired):
            fired.extend((time.perf_counter(), time.process_time()))
            _thread.interrupt_main()

        timer = threading.Timer(delay, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            vae.decode(large, threads=2)
        waits.append(time.perf_counter() - fired[0])
        worked.append((time.process_time() - fired[1]) / 2)
        timer.join()
    print(f"waited {max(waits):.3f} s, worked {max(worked):.3f} s")
    # Other programs may hold the machine up, which the time that was worked does not show.
    assert max(worked) < 0.1 and min(waits) < 0.1, (worked, waits)


def test_other_threads_of_python_run_meanwhile(vae):
    latents = np.zeros((1, 16, 64, 64), np.float32)
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    start = time.perf_counter()
    vae.decode(latents)
    elapsed = time.perf_counter() - start
    done.set()
    thread.join()
    assert counted[0] > elapsed / 0.1, "the GIL was held"


def test_one_model_serves_several_threads(vae, latents, expected):
    results = [None] * 4

    def job(i):
        results[i] = vae.decode(latents, output="np", clamp=False, threads=1)

    threads = [threading.Thread(target=job, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)


LEAK = """
import calotype, numpy as np

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4

latents, pixels = np.zeros((1, 16, 2, 2), np.float32), np.zeros((16, 16, 3), np.uint8)
for i in range(1000):
    if i == 100:
        before = resident()
    vae = calotype.AutoencoderKL.from_pretrained()
    vae.decode(latents, output="np", threads=1)
    try:
        vae.decode(latents, progress=lambda f, l: False)
    except calotype.CancelledError:
        pass
    del vae
grown = resident() - before
print(f"resident memory grew by {grown} KiB in 900 cycles")
raise SystemExit(grown > 2048)
"""


def test_a_thousand_cycles_leave_memory_flat():
    done = subprocess.run([sys.executable, "-c", LEAK], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
