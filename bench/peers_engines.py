"""One engine of bench/peers.py, in a process of its own: see there.

    peers_engines.py prepare WORK JOB WxH FAMILY ENGINE ...   the model and its input
    peers_engines.py truth WORK JOB WxH             the output in float64, by PyTorch
    peers_engines.py run WORK JOB WxH ENGINE RUNS THREADS
    peers_engines.py compare WORK JOB WxH TRUTH ENGINE ...

JOB is decode (raw z to pictures) or encode (pictures to the mean of z). Each engine gets what it
reads best, converted from one PyTorch module; all of that is done by `prepare` and not timed.
"""

import json
import pathlib
import signal
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np

warnings.filterwarnings("ignore")

FAMILIES = {
    "flux": {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
             "use_quant_conv": False, "use_post_quant_conv": False},
    "sd1": {"latent_channels": 4, "scaling_factor": 0.18215},
}


class Files:
    """Where the work folder has what."""

    def __init__(self, work, job, size):
        self.work, self.job = pathlib.Path(work), job
        self.width, self.height = map(int, size.split("x"))
        self.model = self.work / "model"
        self.folder = self.work / f"{job}-{size}"
        self.input = self.folder / "input.npy"  # NCHW
        self.truth = self.folder / "truth.npy"
        self.onnx = self.folder / "model.onnx"

    def output(self, engine):
        return self.folder / f"{engine}.npy"


def load(files, dtype=None):
    """The half of the model that the job needs, as a module from one tensor to one."""
    import torch
    from diffusers import AutoencoderKL

    class Decode(torch.nn.Module):
        def __init__(self, vae):
            super().__init__()
            self.vae = vae
            del vae.encoder

        def forward(self, z):
            return self.vae.decode(z, return_dict=False)[0]

    class Encode(torch.nn.Module):
        def __init__(self, vae):
            super().__init__()
            self.vae = vae
            self.channels = vae.config.latent_channels
            del vae.decoder

        def forward(self, picture):
            moments = self.vae.encoder(picture)
            if self.vae.quant_conv is not None:
                moments = self.vae.quant_conv(moments)
            return moments[:, : self.channels]

    vae = AutoencoderKL.from_pretrained(files.model, torch_dtype=dtype or torch.float32,
                                        low_cpu_mem_usage=False)
    vae.eval().requires_grad_(False)
    return {"decode": Decode, "encode": Encode}[files.job](vae)


def make_model(files, family):
    """Random weights, PyTorch's own initialisation, norms that are not the identity; bfloat16."""
    import torch
    from diffusers import AutoencoderKL

    if (files.model / "config.json").exists():
        return
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=[128, 256, 512, 512], layers_per_block=2,
                        down_block_types=["DownEncoderBlock2D"] * 4,
                        up_block_types=["UpDecoderBlock2D"] * 4, sample_size=1024,
                        force_upcast=False, **FAMILIES[family])
    with torch.no_grad():
        for name, tensor in vae.named_parameters():
            if "norm" in name:
                tensor.add_(0.2 * (2 * torch.rand_like(tensor) - 1))
    vae.to(torch.bfloat16).save_pretrained(files.model)


def make_input(files):
    rng = np.random.default_rng(1)
    if files.job == "decode":
        channels = json.loads((files.model / "config.json").read_text())["latent_channels"]
        z = rng.standard_normal((1, channels, files.height // 8, files.width // 8),
                                dtype=np.float32)
        np.save(files.input, z)
    else:
        picture = rng.uniform(-1, 1, (1, 3, files.height, files.width)).astype(np.float32)
        np.save(files.input, picture)
        np.save(files.folder / "input-nhwc.npy", picture.transpose(0, 2, 3, 1).copy())


class Unprepared(Exception):
    pass


def convert(*command, folder):
    """Runs a converter; what it says is only of interest where it fails. Its engine is then left out."""
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True,
                          check=False)
    if done.returncode == -signal.SIGKILL:
        raise Unprepared(f"{command[0]} was killed: it takes more memory than the machine has")
    if done.returncode != 0:
        raise Unprepared(f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def prepare(files, engine):
    """What an engine loads. Attention is plain products and a softmax in the exports."""
    bin_folder = pathlib.Path(sys.executable).parent
    if engine in ("onnxruntime", "openvino", "mnn") and not files.onnx.exists():
        export_onnx(files)
    mnn, ncnn = files.folder / "model.mnn", files.folder / "model.ncnn.param"
    if engine == "mnn" and not mnn.exists():
        new = mnn.with_suffix(".new")
        convert(bin_folder / "mnnconvert", "-f", "ONNX", "--modelFile", files.onnx, "--MNNModel",
                new, "--bizCode", "calotype", folder=files.folder)
        new.rename(mnn)
    if engine == "ncnn" and not ncnn.exists():
        traced, shape = files.folder / "traced.pt", trace(files)
        new = ncnn.with_suffix(".new")
        convert(bin_folder / "pnnx", traced, f"inputshape=[{shape}]", "fp16=0", f"ncnnparam={new}",
                f"ncnnbin={files.folder / 'model.ncnn.bin'}", folder=files.folder)
        for leftover in {*files.folder.glob("traced*"), *files.folder.glob("*pnnx*")}:
            leftover.unlink()
        new.rename(ncnn)


def export_onnx(files):
    import torch

    x = torch.from_numpy(np.load(files.input))  # at the real size: shapes are fixed in what comes out
    new = files.onnx.with_suffix(".new")
    with torch.no_grad():
        torch.onnx.export(load(files), (x,), new, input_names=["x"], output_names=["y"],
                          dynamo=False, opset_version=17)
    new.rename(files.onnx)


def trace(files):
    """Into traced.pt; the shape of the input, for pnnx."""
    import torch

    x = torch.from_numpy(np.load(files.input))
    with torch.no_grad():
        torch.jit.trace(load(files), x, check_trace=False).save(files.folder / "traced.pt")
    return ",".join(map(str, x.shape))


def truth(files):
    """In float64. Attention in parts, for the memory."""
    import torch
    from torch.nn import functional

    whole = functional.scaled_dot_product_attention

    def in_parts(q, k, v, **options):
        assert options.get("attn_mask") is None
        return torch.cat([whole(part, k, v) for part in q.split(1024, dim=2)], dim=2)

    if files.truth.exists():
        return
    functional.scaled_dot_product_attention = in_parts
    module = load(files, torch.float64)
    with torch.no_grad():
        y = module(torch.from_numpy(np.load(files.input)).double())
    np.save(files.truth, y.numpy())


# Each engine gives a function from the input (NCHW) to the output (NCHW).


def pytorch(files, threads):
    import torch

    torch.set_num_threads(threads)
    module = load(files).to(memory_format=torch.channels_last)  # its faster layout

    def run(x):
        with torch.inference_mode():
            x = torch.from_numpy(x).to(memory_format=torch.channels_last)
            return module(x).contiguous().numpy()

    return run


def onnxruntime(files, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(files.onnx, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def openvino(files, threads):
    import openvino as ov

    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(files.onnx), "CPU",
        {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
         "INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled(x)[0]


def ncnn(files, threads):
    import ncnn as library

    net = library.Net()
    net.opt.num_threads = threads
    # Float32 throughout. Its faster modes of Winograd are on by default.
    for half in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, half, False)
    net.load_param(str(files.folder / "model.ncnn.param"))
    net.load_model(str(files.folder / "model.ncnn.bin"))

    def run(x):
        with net.create_extractor() as extractor:
            extractor.input("in0", library.Mat(x[0]).clone())
            _, y = extractor.extract("out0")
            return np.array(y)[None]

    return run


def mnn(files, threads):
    import MNN.expr as F
    import MNN.nn as nn

    runtime = nn.create_runtime_manager(
        ({"backend": "CPU", "precision": "high", "numThread": threads},))
    net = nn.load_module_from_file(str(files.folder / "model.mnn"), ["x"], ["y"],
                                   runtime_manager=runtime)

    def run(x):
        given = F.const(x, list(x.shape), F.data_format.NCHW, F.float)
        y = F.convert(net.forward(given), F.data_format.NCHW)
        return np.array(y.read(), copy=True)

    return run


ENGINES = {"pytorch": pytorch, "onnxruntime": onnxruntime, "openvino": openvino, "ncnn": ncnn,
           "mnn": mnn}


def measure(files, engine, runs, threads):
    """Prints the median of `runs` after one that is not counted; keeps the last output."""
    run = ENGINES[engine](files, threads)
    x = np.load(files.input)
    y = run(x)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        y = run(x)
        seconds.append(time.perf_counter() - start)
    np.save(files.output(engine), y)
    print(json.dumps({"median_s": statistics.median(seconds), "seconds": seconds}))


def output(files, engine):
    """What an engine left, as float64 NCHW."""
    y = np.load(files.output(engine)).astype(np.float64)
    if engine == "calotype" and files.job == "decode":
        y = y.transpose(0, 3, 1, 2)  # pictures in .npy are NHWC
    elif engine == "calotype":  # scaled latents to raw z
        config = json.loads((files.model / "config.json").read_text())
        y = y / config["scaling_factor"] + (config.get("shift_factor") or 0)
    return y


def compare(files, truth_name, engines):
    """PSNR (peak: max - min of the truth); share of 8-bit values that are off, and by how much."""
    def eight_bits(y):
        return np.round(255 * np.clip(y / 2 + 0.5, 0, 1)).astype(int)

    truth_values = output(files, truth_name)
    figures = {}
    for engine in engines:
        y = output(files, engine)
        assert y.shape == truth_values.shape, f"{engine}: {y.shape}, not {truth_values.shape}"
        error = np.mean((y - truth_values) ** 2)
        peak = truth_values.max() - truth_values.min()
        psnr = float(10 * np.log10(peak**2 / error)) if error > 0 else 999.0
        figures[engine] = {"psnr": psnr}
        if files.job == "decode":
            off = np.abs(eight_bits(y) - eight_bits(truth_values))
            figures[engine] |= {"off": float(np.mean(off > 0)), "off_by": int(off.max())}
    print(json.dumps(figures))


def main():
    command, work, job, size, *rest = sys.argv[1:]
    files = Files(work, job, size)
    if command == "prepare":
        make_model(files, rest[0])
        files.folder.mkdir(parents=True, exist_ok=True)
        make_input(files)
        for engine in rest[1:]:
            try:
                prepare(files, engine)
            except Unprepared as problem:
                print(f"{engine}: {problem}", file=sys.stderr)
    elif command == "truth":
        truth(files)
    elif command == "compare":
        compare(files, rest[0], rest[1:])
    else:
        measure(files, rest[0], int(rest[1]), int(rest[2]))


if __name__ == "__main__":
    main()
