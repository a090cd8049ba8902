#!/usr/bin/env python3
"""Calotype's CUDA backend and PyTorch side by side: the same weights, latents and GPU, in one run.

    bench/peers_cuda.py --library build-cuda/bin [--sections accuracy,speed,layers,memory,start]

Needs torch with CUDA. Times are medians of 20 runs after 5, of CUDA events; inputs and outputs are
on the device. Errors are relative RMS against the same network in float64. Fails where outputs disagree.
"""
import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

DEVICE = "cuda"
CONFIG = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16,
    "norm_num_groups": 32, "scaling_factor": 0.3611, "shift_factor": 0.1159, "force_upcast": False,
    "use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": True,
}


# The network, with the names of diffusers.
class Resnet(nn.Module):
    def __init__(self, i, o, g):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(g, i, eps=1e-6), nn.Conv2d(i, o, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(g, o, eps=1e-6), nn.Conv2d(o, o, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(i, o, 1) if i != o else None

    def forward(self, x):
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    def __init__(self, c, g):
        super().__init__()
        self.group_norm = nn.GroupNorm(g, c, eps=1e-6)
        self.to_q, self.to_k, self.to_v = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c)
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x):
        b, c, h, w = x.shape
        y = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.to_q(y)[:, None], self.to_k(y)[:, None], self.to_v(y)[:, None]
        if x.dtype == torch.float64:  # no fused kernel: in parts, for the memory
            parts = [F.scaled_dot_product_attention(p, k, v) for p in q.split(2048, 2)]
            o = torch.cat(parts, 2)[:, 0]
        else:
            o = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.to_out[0](o).transpose(1, 2).reshape(b, c, h, w)


class Mid(nn.Module):
    def __init__(self, c, g, attention):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(c, c, g), Resnet(c, c, g)])
        self.attentions = nn.ModuleList([Attention(c, g)] if attention else [])

    def forward(self, x):
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Sampler(nn.Module):
    def __init__(self, c, stride):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=stride, padding=1 if stride == 1 else 0)


class Encoder(nn.Module):
    def __init__(self, f):
        super().__init__()
        widths, g = f["block_out_channels"], f["norm_num_groups"]
        self.conv_in = nn.Conv2d(f["in_channels"], widths[0], 3, padding=1)
        self.down_blocks, c = nn.ModuleList(), widths[0]
        for i, o in enumerate(widths):
            block = nn.Module()
            block.resnets = nn.ModuleList()
            for _ in range(f["layers_per_block"]):
                block.resnets.append(Resnet(c, o, g))
                c = o
            if i + 1 < len(widths):
                block.downsamplers = nn.ModuleList([Sampler(o, 2)])
            self.down_blocks.append(block)
        self.mid_block = Mid(c, g, f["mid_block_add_attention"])
        self.conv_norm_out = nn.GroupNorm(g, c, eps=1e-6)
        self.conv_out = nn.Conv2d(c, 2 * f["latent_channels"], 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            for resnet in block.resnets:
                x = resnet(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0].conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, f):
        super().__init__()
        widths, g = f["block_out_channels"][::-1], f["norm_num_groups"]
        self.conv_in = nn.Conv2d(f["latent_channels"], widths[0], 3, padding=1)
        self.mid_block = Mid(widths[0], g, f["mid_block_add_attention"])
        self.up_blocks, c = nn.ModuleList(), widths[0]
        for i, o in enumerate(widths):
            block = nn.Module()
            block.resnets = nn.ModuleList()
            for _ in range(f["layers_per_block"] + 1):
                block.resnets.append(Resnet(c, o, g))
                c = o
            if i + 1 < len(widths):
                block.upsamplers = nn.ModuleList([Sampler(o, 1)])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(g, c, eps=1e-6)
        self.conv_out = nn.Conv2d(c, f["out_channels"], 3, padding=1)

    def forward(self, x):
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            for resnet in block.resnets:
                x = resnet(x)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0].conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f
        self.encoder, self.decoder = Encoder(f), Decoder(f)
        z = f["latent_channels"]
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1) if f["use_quant_conv"] else None
        self.post_quant_conv = nn.Conv2d(z, z, 1) if f["use_post_quant_conv"] else None

    def encode(self, x):  # moments
        x = self.encoder(x)
        return x if self.quant_conv is None else self.quant_conv(x)

    def decode(self, z):
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))


def random_network(config, seed=1):
    """bf16 weights, PyTorch's own initialisation, norms that are not the identity."""
    torch.manual_seed(seed)
    net = AutoencoderKL(config).eval().requires_grad_(False)
    for name, p in net.named_parameters():
        if "norm" in name:
            p.copy_(torch.randn_like(p) * 0.2 + (1 if name.endswith("weight") else 0))
        p.copy_(p.to(torch.bfloat16).float())
    return net


class Array(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int), ("on_device", ctypes.c_int),
                ("strides", ctypes.c_int64 * 4)]


CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3}


def array(t):
    """A tensor of shape [N, C, H, W], whatever its strides."""
    n, c, h, w = t.stride()
    return Array(t.data_ptr(), CODES[t.dtype], int(t.is_cuda), (ctypes.c_int64 * 4)(n, h, w, c))


class Calotype:
    """One model on the GPU, through the library of bench/cuda/bindings.cc."""
    lib = None

    def __init__(self, net, precision="bf16", portable=False):
        os.environ["CALOTYPE_CUDA_KERNELS"] = "portable" if portable else "auto"
        self.keep = {k: v.to(torch.bfloat16).contiguous().cpu() for k, v in net.state_dict().items()}
        self.handle = ctypes.c_void_p(self.lib.bench_new(json.dumps(net.f).encode()))
        if not self.handle:
            raise RuntimeError(self.lib.bench_error().decode())
        for name, t in self.keep.items():
            shape = (ctypes.c_int64 * t.dim())(*t.shape)
            self.lib.bench_add(self.handle, name.encode(), 1, t.dim(), shape,
                               ctypes.c_void_p(t.data_ptr()))
        self.check(self.lib.bench_open(self.handle, {"auto": 0, "f32": 1, "bf16": 2, "f16": 3, "fp8": 4}[precision], 0))
        self.factor = 2 ** (len(net.f["block_out_channels"]) - 1)
        self.f = net.f

    @classmethod
    def load(cls, folder):
        os.environ.setdefault("CALOTYPE_CUDA_PLUGIN", os.path.join(os.path.abspath(folder), "libcalotype_cuda.so"))
        lib = ctypes.CDLL(os.path.join(os.path.abspath(folder), "libcalotype_cuda_bench.so"))
        p, i, l = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
        for name, result, arguments in [
                ("bench_new", p, [ctypes.c_char_p]), ("bench_error", ctypes.c_char_p, []),
                ("bench_add", None, [p, ctypes.c_char_p, i, i, p, p]), ("bench_open", i, [p, i, i]),
                ("bench_close", None, [p]), ("bench_description", ctypes.c_char_p, [p]),
                ("bench_run", i, [p, i, l, l, l, p, p, p, l]), ("bench_bytes", l, [p, i, l, l, l, l]),
                ("bench_layers", ctypes.c_char_p, [p, i, l, l, l, p, p])]:
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        cls.lib = lib

    def check(self, failed):
        if failed:
            raise RuntimeError(self.lib.bench_error().decode())

    def close(self):
        self.lib.bench_close(self.handle)
        self.handle = None

    def output(self, x, encode, dtype):
        n, _, h, w = x.shape
        if encode:
            shape = (n, 2 * self.f["latent_channels"], h // self.factor, w // self.factor)
        else:
            shape = (n, self.f["out_channels"], h * self.factor, w * self.factor)
        return torch.empty(shape, dtype=dtype, device=x.device)

    def run(self, x, encode=False, out=None, dtype=torch.float32, memory=0):
        if out is None:
            out = self.output(x, encode, dtype)
        a, b = array(x), array(out)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.check(self.lib.bench_run(self.handle, int(encode), x.shape[0], x.shape[2], x.shape[3],
                                      ctypes.byref(a), ctypes.byref(b), stream, memory))
        return out

    def planned_bytes(self, x, encode=False, memory=0):
        return self.lib.bench_bytes(self.handle, int(encode), x.shape[0], x.shape[2], x.shape[3], memory)

    def layers(self, x, encode=False):
        out = self.output(x, encode, torch.uint8 if not encode else torch.float32)
        a, b = array(x), array(out)
        text = self.lib.bench_layers(self.handle, int(encode), x.shape[0], x.shape[2], x.shape[3],
                                     ctypes.byref(a), ctypes.byref(b))
        if text is None:
            raise RuntimeError(self.lib.bench_error().decode())
        return [(f[0], f[1], *map(float, f[2:])) for f in (line.split("\t") for line in text.decode().splitlines())]


def error(a, truth):
    a, truth = a.double(), truth.double()
    return ((a - truth).norm() / truth.norm()).item()


def median_ms(f, runs=20, warm=5):
    for _ in range(warm):
        f()
    torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        f()
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b))
    return sorted(times)[len(times) // 2]


def host_ms(f, runs=10):
    """What a call costs the calling thread."""
    torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        f()
        times.append((time.perf_counter() - start) * 1e3)
        torch.cuda.synchronize()
    return sorted(times)[runs // 2]


# Two bf16 decodes differ by both their errors, some 3e-2 of random weights; a wrong kernel differs by its result.
AGREES = 6e-2
# e4m3 of random weights errs by 1.7e-1.
FP8_AGREES = 0.25
disagreements = []


def judge(what, name, result, truth, bound=AGREES):
    """How far a result is from what it should be, noted where that is too far (or not a number)."""
    distance = error(result, truth)
    if not distance <= bound:
        disagreements.append(f"{what}: {name} is {distance:.1e} from its judge; {bound:.0e} is allowed")
    return f"{distance:.2e}"


def free():
    gc.collect()
    torch.cuda.empty_cache()


def latents(config, n, h, w, seed=0):
    torch.manual_seed(seed)
    return torch.randn(n, config["latent_channels"], h, w, device=DEVICE).to(torch.bfloat16)


def picture(n, h, w, seed=0):
    torch.manual_seed(seed)
    return (torch.rand(n, 3, h, w, device=DEVICE) * 2 - 1).to(torch.bfloat16)


def in_dtype(net, dtype):
    copy = AutoencoderKL(net.f).eval().requires_grad_(False)
    copy.load_state_dict(net.state_dict())
    copy = copy.to(DEVICE, dtype)
    return copy if dtype == torch.float64 else copy.to(memory_format=torch.channels_last)


def accuracy(net, sizes):
    print("\n## Error against float64 (relative RMS)\n")
    print("| what | PyTorch bf16 | Calotype bf16 | f16 | f32 | bf16, portable kernels | fp8 |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    kinds = {"bf16": ("bf16", False), "f16": ("f16", False), "f32": ("f32", False),
             "portable": ("bf16", True), "fp8": ("fp8", False)}
    for encode, n, h, w in sizes:
        if encode:
            x = picture(n, h, w)
        else:
            x = latents(net.f, n, h // 8, w // 8)
        start = time.time()
        try:
            exact = in_dtype(net, torch.float64)
            truth = (exact.encode if encode else exact.decode)(x.double()).float()
        except torch.OutOfMemoryError:
            exact = None
            free()
            exact = in_dtype(net, torch.float32)
            truth = (exact.encode if encode else exact.decode)(x.float())
            print("(float32 judges the next line: float64 does not fit)")
        torch.cuda.synchronize()
        seconds = time.time() - start
        del exact
        free()
        what = f"{'encode' if encode else 'decode'} {w}x{h}, batch {n}"
        peer = in_dtype(net, torch.bfloat16)
        y = (peer.encode if encode else peer.decode)(x.contiguous(memory_format=torch.channels_last))
        peers_error = error(y, truth)
        row = [f"{peers_error:.2e}"]
        del peer, y
        free()
        for kind, (precision, portable) in kinds.items():
            ours = Calotype(net, precision, portable)
            y = ours.run(x, encode)
            torch.cuda.synchronize()
            # No worse than PyTorch's bf16; float32 is held to 90 dB, 3.2e-5.
            bound = {"f32": 3.2e-5, "fp8": FP8_AGREES}.get(precision, peers_error)
            row.append(judge(what, kind, y, truth, bound))
            again = ours.run(x, encode)
            torch.cuda.synchronize()
            if not torch.equal(y, again):
                row[-1] += " NOT REPEATABLE"
                disagreements.append(f"{what}: {kind} differs from run to run")
            ours.close()
            free()
        print(f"| {what} | " + " | ".join(row) +
              f" | (float64 took {seconds:.1f} s)", flush=True)


def eager_nchw(net, x, encode):
    """The other layout; which one is faster depends on the version and the size."""
    free()
    peer = in_dtype(net, torch.bfloat16).to(memory_format=torch.contiguous_format)
    f = peer.encode if encode else peer.decode
    return median_ms(lambda: f(x), runs=10, warm=3)


def speed(net, peers, portable):
    print("\n## Time (ms)\n")
    names = ["PyTorch eager", "compile"] if peers else []
    print("| what | " + " | ".join(names + ["Calotype bf16", "fp8"] + (["portable"] if portable else [])) + " |")
    print("| --- " * (3 + len(names) + portable) + "|", flush=True)
    jobs = [(False, 1, 512), (False, 1, 1024), (False, 1, 2048), (True, 1, 1024), (True, 32, 256)]
    eager = in_dtype(net, torch.bfloat16) if peers else None
    torch.backends.cudnn.benchmark = True
    for encode, n, size in jobs:
        if encode:
            x = picture(n, size, size)
        else:
            x = latents(net.f, n, size // 8, size // 8)
        row, results = [], {}
        what = f"{'encode' if encode else 'decode'} {size}x{size}, batch {n}"
        if peers:
            xc = x.contiguous(memory_format=torch.channels_last)
            f = eager.encode if encode else eager.decode
            row.append(f"{min(median_ms(lambda: f(xc)), eager_nchw(net, x, encode)):.2f}")
            results["PyTorch"] = f(xc).float()
            if peers == "compile" and size == 1024 and not encode:
                torch._dynamo.reset()
                start = time.time()
                g = torch.compile(f)
                g(xc)
                torch.cuda.synchronize()
                row.append(f"{median_ms(lambda: g(xc)):.2f} (compiling {time.time() - start:.0f} s)")
            else:
                row.append("")
            free()
        variants = [("Calotype", "bf16", False), ("fp8", "fp8", False)]
        for name, precision, is_portable in variants + [("portable", "bf16", True)] * portable:
            ours = Calotype(net, precision, is_portable)
            out = ours.output(x, encode, torch.float32 if encode else torch.uint8)
            row.append(f"{median_ms(lambda: ours.run(x, encode, out)):.3f} (host {host_ms(lambda: ours.run(x, encode, out)):.2f})")
            results[name] = ours.run(x, encode)
            torch.cuda.synchronize()
            ours.close()
        truth = next(iter(results.values()))  # PyTorch's, where it ran
        for name, result in list(results.items())[1:]:
            bound = FP8_AGREES if name == "fp8" else AGREES
            row.append(f"{name} agrees to {judge(what, name, result, truth, bound)}")
        print(f"| {what} | " + " | ".join(row) + " |", flush=True)
        free()


def layers(net, size=1024, encode=False, portable=False, peak_tflops=989, peak_gbs=3000):
    print(f"\n## Layers, {'encode' if encode else 'decode'} {size}x{size}\n")
    print("| layer | kernel | ms | TFLOP/s | GB/s | share of limit |\n| --- | --- | --- | --- | --- | --- |")
    ours = Calotype(net, "bf16", portable)
    x = picture(1, size, size) if encode else latents(net.f, 1, size // 8, size // 8)
    for _ in range(3):
        rows = ours.layers(x, encode)
    for name, kernel, seconds, _, flop, bytes_ in rows:
        limit = max(flop / (peak_tflops * 1e12), bytes_ / (peak_gbs * 1e9))
        print(f"| {name} | {kernel} | {seconds * 1e3:.3f} | {flop / seconds / 1e12:.0f} | {bytes_ / seconds / 1e9:.0f} | {limit / seconds:.0%} |")
    total = sum(r[2] for r in rows)
    print(f"| sum | | {total * 1e3:.3f} | {sum(r[4] for r in rows) / total / 1e12:.0f} | | |", flush=True)
    ours.close()


def memory(net, peers):
    print("\n## Peak device memory, without the CUDA context (GiB)\n")
    for encode, n, size in [(False, 1, 512), (False, 1, 1024), (False, 1, 2048), (True, 1, 1024)]:
        x = picture(n, size, size) if encode else latents(net.f, n, size // 8, size // 8)
        free()
        torch.cuda.synchronize()
        before = torch.cuda.mem_get_info()[0]
        ours = Calotype(net, "bf16")
        out = ours.output(x, encode, torch.float32 if encode else torch.uint8)
        ours.run(x, encode, out)
        torch.cuda.synchronize()
        used = before - torch.cuda.mem_get_info()[0]
        planned = ours.planned_bytes(x, encode)
        ours.close()
        line = f"{'encode' if encode else 'decode'} {size}: Calotype held {used / 2**30:.3f}, planned {planned / 2**30:.3f}"
        if peers:
            free()
            torch.cuda.reset_peak_memory_stats()
            peer = in_dtype(net, torch.bfloat16)
            (peer.encode if encode else peer.decode)(x.contiguous(memory_format=torch.channels_last))
            line += f"; PyTorch {torch.cuda.max_memory_allocated() / 2**30:.3f}"
            del peer
        print(line, flush=True)


FIRST_PICTURE = """
import ctypes, json, mmap, sys, time
library, weights, size, start = sys.argv[1:]
with open(weights + ".json") as f: index = json.load(f)
with open(weights, "rb") as f: data = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE)
base = ctypes.addressof(ctypes.c_char.from_buffer(data))
lib = ctypes.CDLL(library)
p, i, l = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
lib.bench_new.restype, lib.bench_error.restype = p, ctypes.c_char_p
lib.bench_add.argtypes = [p, ctypes.c_char_p, i, i, p, p]
lib.bench_run.argtypes = [p, i, l, l, l, p, p, p, l]
lib.bench_open.argtypes = [p, i, i]
net = lib.bench_new(json.dumps(index["config"]).encode())
for name, shape, offset in index["tensors"]:
    lib.bench_add(net, name.encode(), 1, len(shape), (l * len(shape))(*shape), base + offset)
class Array(ctypes.Structure):
    _fields_ = [("data", p), ("dtype", i), ("on_device", i), ("strides", l * 4)]
n = int(size) // 8
z = (ctypes.c_float * (n * n * 16))(*[((k * 7919) % 2003) / 1000 - 1 for k in range(n * n * 16)])
out = (ctypes.c_uint8 * (int(size) ** 2 * 3))()
times = []
for _ in range(3):
    if not times and lib.bench_open(net, 2, 0): raise SystemExit(lib.bench_error())
    a, b = Array(ctypes.addressof(z), 0, 0), Array(ctypes.addressof(out), 3, 0)
    if lib.bench_run(net, 0, 1, n, n, ctypes.byref(a), ctypes.byref(b), None, 0): raise SystemExit(lib.bench_error())
    times.append(time.time() - float(start))
print(f"first picture {times[0]:.2f} s after the start of the process, the next ones {times[1] - times[0]:.4f} and {times[2] - times[1]:.4f} s later")
"""


def start(net, library, size=1024):
    """A process without PyTorch: weights on disk, latents and picture in host memory."""
    print(f"\n## First {size}x{size} picture\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path, offset, tensors = os.path.join(folder, "weights"), 0, []
        with open(path, "wb") as f:
            for name, t in net.state_dict().items():
                if name.startswith("decoder"):
                    raw = t.to(torch.bfloat16).contiguous().cpu().view(torch.uint8).numpy().tobytes()
                    tensors.append((name, list(t.shape), offset))
                    f.write(raw)
                    offset += len(raw)
        with open(path + ".json", "w") as f:
            json.dump({"config": net.f, "tensors": tensors}, f)
        bench = os.path.join(os.path.abspath(library), "libcalotype_cuda_bench.so")
        for _ in range(2):
            subprocess.run([sys.executable, "-S", "-c", FIRST_PICTURE, bench, path, str(size),
                            str(time.time())], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default="build-cuda/bin")
    parser.add_argument("--sections", default="accuracy,speed,layers,memory,start")
    parser.add_argument("--peers", choices=["none", "eager", "compile"], default="compile")
    parser.add_argument("--portable", action="store_true", help="time the portable kernels too")
    parser.add_argument("--sizes", default="512,1024,2048", help="of the accuracy table")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    Calotype.load(arguments.library)
    net = random_network(CONFIG)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    peers = None if arguments.peers == "none" else arguments.peers
    sections = arguments.sections.split(",")
    with torch.no_grad():
        if "accuracy" in sections:
            sizes = [int(s) for s in arguments.sizes.split(",")]
            jobs = [(False, 1, s, s) for s in sizes] + [(True, 1, s, s) for s in sizes if s <= 1024]
            accuracy(net, jobs + [(False, 3, 72, 200), (True, 2, 136, 72)])
        if "speed" in sections:
            speed(net, peers, arguments.portable)
        if "layers" in sections:
            layers(net)
            if "encode_layers" in sections:
                layers(net, encode=True)
            if arguments.portable:
                layers(net, portable=True)
        if "memory" in sections:
            memory(net, peers)
        if "start" in sections:
            start(net, arguments.library)
    if disagreements:
        sys.exit("outputs disagree:\n" + "\n".join(disagreements))


if __name__ == "__main__":
    main()
