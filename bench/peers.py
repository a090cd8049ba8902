#!/usr/bin/env python3
"""Calotype and the engines that users would pick instead, side by side on this machine's CPU.

    bench/peers.py [decode|encode] [--sizes 512x512,1024x1024] [--engines calotype,mnn,ncnn]
                   [--runs 3] [--threads 2] [--json results.json]

Every engine gets the same random weights (of bfloat16 precision, computed in float32), the same
input and the same threads, pinned to as many CPUs, in a process of its own. The first run is not
counted; the time is the median of the others. Peak memory is the whole process's, its loading
included. Outputs are compared with the same network in float64 (PyTorch; --no-truth compares with
the first engine instead: 1024x1024 in float64 takes minutes). What engines need is installed once
into virtual environments outside the tree, and converted models are kept beside them (--work).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

TREE = pathlib.Path(__file__).resolve().parent.parent
PEERS = ("pytorch", "onnxruntime", "openvino", "ncnn", "mnn")
LEAST_PSNR = 60  # dB: below, an engine has computed something else


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", default="decode", choices=("decode", "encode"))
    parser.add_argument("--sizes", default="512x512,1024x1024", help="of the picture, WxH,...")
    parser.add_argument("--engines", default=",".join(("calotype", *PEERS)))
    parser.add_argument("--family", default="flux", choices=("flux", "sd1"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", default="f32", help="of Calotype: f32, fast or bf16")
    parser.add_argument("--calotype", type=pathlib.Path, default=TREE / "build" / "calotype")
    parser.add_argument("--no-truth", action="store_true")
    parser.add_argument("--work", type=pathlib.Path, help="folder for converted models")
    parser.add_argument("--json", type=pathlib.Path, help="also write the results there")
    arguments = parser.parse_args()
    arguments.engines = arguments.engines.split(",")
    arguments.sizes = arguments.sizes.split(",")
    unknown = set(arguments.engines) - {"calotype", *PEERS}
    if unknown:
        parser.error(f"no such engine: {', '.join(sorted(unknown))}")
    for size in arguments.sizes:
        if size.count("x") != 1 or any(not side.isdigit() or int(side) % 8 or int(side) == 0
                                       for side in size.split("x")):
            parser.error(f"{size}: sizes are WxH, both multiples of 8")
    if "calotype" in arguments.engines and not arguments.calotype.exists():
        parser.error(f"{arguments.calotype} does not exist; run make, or name it with --calotype")
    arguments.calotype = arguments.calotype.resolve()
    if arguments.work is None:
        cache = os.environ.get("CALOTYPE_CACHE") or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "calotype")
        arguments.work = pathlib.Path(cache) / f"peers-{arguments.family}"
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


def make_environment():
    """The interpreter with the engines, and the environment in which it finds PyTorch too."""
    script = TREE / "scripts" / "python-env.sh"
    with_torch, with_engines = (
        subprocess.run([script, TREE / requirements], check=True, text=True,
                       stdout=subprocess.PIPE).stdout.strip()
        for requirements in ("tests/python/requirements.txt", "bench/peers-requirements.txt"))
    packages = subprocess.run(
        [with_torch, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
    return with_engines, {"PYTHONPATH": packages}


def run_pinned(command, threads, environment):
    """(standard output, peak resident bytes) of a process that may use the first `threads` CPUs."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS",
                                                 "OPENBLAS_NUM_THREADS")}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output,
                                   env=os.environ | environment | variables,
                                   preexec_fn=lambda: os.sched_setaffinity(0, cpus))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command[:4], text)
    return text, usage.ru_maxrss * 1024


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.python, self.environment = make_environment()

    def script(self, command, size, *rest):
        a = self.arguments
        return [self.python, TREE / "bench" / "peers_engines.py", command, a.work, a.job, size,
                *rest]

    def run_peer(self, engine, size):
        a = self.arguments
        text, peak = run_pinned(self.script("run", size, engine, a.runs, a.threads), a.threads,
                                self.environment)
        return {"median_s": json.loads(text.splitlines()[-1])["median_s"], "peak_bytes": peak}

    def run_calotype(self, size):
        """The time by `calotype bench`; output and peak memory by the command itself."""
        a = self.arguments
        options = ["--model", a.work / "model", "--threads", a.threads, "--precision", a.precision]
        text, _ = run_pinned([a.calotype, "bench", a.job, "--size", size, "--runs", a.runs,
                              "--json", "--quiet", *options], a.threads, self.environment)
        folder = a.work / f"{a.job}-{size}"
        if a.job == "decode":
            command = ["decode", folder / "input.npy", "--unscaled"]
        else:
            command = ["encode", folder / "input-nhwc.npy"]
        _, peak = run_pinned([a.calotype, *command, "-o", folder / "calotype.npy", "--quiet",
                              *options], a.threads, self.environment)
        return {"median_s": json.loads(text)["median_s"], "peak_bytes": peak}

    def compare(self, size, engines):
        """By engine: PSNR and 8-bit differences, of the outputs that `run` left."""
        text = subprocess.run(
            list(map(str, self.script("compare", size, *engines))), check=True, text=True,
            stdout=subprocess.PIPE, env=os.environ | self.environment).stdout
        return json.loads(text.splitlines()[-1])

    def run(self, size):
        a = self.arguments
        environment = os.environ | self.environment
        print(f"{a.job} {size}: preparing", file=sys.stderr)
        subprocess.run(list(map(str, self.script("prepare", size, a.family, *a.engines))), check=True,
                       env=environment, stdout=subprocess.DEVNULL)
        results = {}
        for engine in a.engines:
            print(f"{a.job} {size}: {engine}", file=sys.stderr)
            try:
                results[engine] = (self.run_calotype(size) if engine == "calotype"
                                   else self.run_peer(engine, size))
            except subprocess.CalledProcessError as error:
                results[engine] = {"problem": str(error)}
        if not a.no_truth:
            print(f"{a.job} {size}: float64", file=sys.stderr)
            subprocess.run(list(map(str, self.script("truth", size))), check=True, env=environment)
        done = [engine for engine in results if "problem" not in results[engine]]
        against = "truth" if not a.no_truth else done[0]
        for engine, figures in self.compare(size, [against, *done]).items():
            results[engine] |= figures
        return results


def print_table(job, size, results, against):
    print(f"\n{job} {size}, errors against {against}")
    print(f"{'engine':12} {'median':>9} {'times':>6} {'peak':>9} {'PSNR':>8} {'8-bit off':>10}"
          f" {'by':>3}")
    done = {engine: r for engine, r in results.items() if "problem" not in r}
    base = results.get("calotype", {}).get("median_s") or min(r["median_s"] for r in done.values())
    for engine, r in sorted(done.items(), key=lambda item: item[1]["median_s"]):
        off = f"{r['off']:10.2e} {r['off_by']:3d}" if "off" in r else ""
        wrong = "  WRONG" if r["psnr"] < LEAST_PSNR else ""
        print(f"{engine:12} {r['median_s']:8.3f}s {r['median_s'] / base:6.2f}"
              f" {r['peak_bytes'] / 2**30:6.2f}GiB {r['psnr']:6.1f}dB {off}{wrong}")
    for engine, r in results.items():
        if "problem" in r:
            print(f"{engine:12} failed: {r['problem']}")


def main():
    arguments = parse_arguments()
    bench = Bench(arguments)
    everything, right = {}, True
    for size in arguments.sizes:
        results = everything[size] = bench.run(size)
        against = arguments.engines[0] if arguments.no_truth else "float64"
        print_table(arguments.job, size, results, against)
        right &= all(r.get("psnr", 0) >= LEAST_PSNR for r in results.values())
    if arguments.json:
        report = {"job": arguments.job, "family": arguments.family, "threads": arguments.threads,
                  "runs": arguments.runs, "sizes": everything}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
