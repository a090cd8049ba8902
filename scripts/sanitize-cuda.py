#!/usr/bin/env python3
"""NVIDIA's compute-sanitizer over the tests that need a GPU, many processes at once.

    scripts/sanitize-cuda.py build-cuda/bin/cuda_gpu_test [--tools memcheck,racecheck] [--jobs N]

Long tests are split into parts (CALOTYPE_TEST_PART), and all spread over the GPUs there are. Judged
is what the tools find; whether the tests pass is for `make test-cuda`: some measure the GPU's
memory or time, which the tools change. Each tool has to find a planted fault of its kind first. Exit
code 1 where it does not, where a tool found something else, or a part did not end.
"""
import argparse
import concurrent.futures
import contextlib
import fnmatch
import itertools
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time

TOOLS = ("initcheck", "racecheck", "memcheck", "synccheck")
# initcheck does not see what TMA writes, so only what runs without it can be judged.
WITHOUT_TMA = ("*_portable", "*/f32")
FOUND = 99
PLANTED = "cuda_planted_faults"  # beside the tests: a fault for each tool


def tests_of(program):
    listing = subprocess.run([program, "--gtest_list_tests"], text=True, check=True,
                             capture_output=True).stdout
    suite = ""
    for line in listing.splitlines()[1:]:
        name = line.split("#")[0].strip()
        if not line.startswith(" "):
            suite = name
        else:
            yield suite + name


def jobs_of(tests, tools, parts):
    for tool in tools:
        for test in tests:
            if tool == "initcheck" and not any(fnmatch.fnmatch(test, t) for t in WITHOUT_TMA):
                continue
            # The longest of several cases; racecheck takes longest by far.
            many = "give_what|take_and_leave|every_family|the_past"
            if tool == "racecheck":
                many += "|GpuOps"
            count = parts if re.search(many, test) else 1
            for part in range(count):
                yield tool, test, f"{part}/{count}"


@contextlib.contextmanager
def multi_process_service():
    """NVIDIA's MPS for the processes started inside, where there is one.

    Kernels of many processes run side by side on a GPU then, instead of in turn: the tests' small
    ones leave most of it idle.
    """
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUDA_MPS_PIPE_DIRECTORY"] = os.environ["CUDA_MPS_LOG_DIRECTORY"] = folder
        subprocess.run([control, "-d"], check=True)
        try:
            yield
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):  # what was found is told anyway
                subprocess.run([control], input="quit\n", text=True, stdout=subprocess.DEVNULL,
                               timeout=60)


def run(job, program, log, gpus, timeout):
    tool, test, part = job
    gpu = gpus.get()
    environment = {**os.environ, "CALOTYPE_TEST_PART": part, "CUDA_VISIBLE_DEVICES": gpu}
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND),
               "--launch-timeout", "300", "--print-limit", "5"]
    if test == PLANTED:
        command += [os.path.join(os.path.dirname(program), PLANTED), tool]
    else:
        command += [program, f"--gtest_filter={test}"]
    start = time.monotonic()
    try:
        done = subprocess.run(command, env=environment, text=True, errors="replace",
                              capture_output=True, timeout=timeout)
        output, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as ended:
        output, code = (ended.stdout or b"").decode(errors="replace"), None
    finally:
        gpus.put(gpu)
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", output)
    with open(os.path.join(log, re.sub(r"\W+", "_", f"{tool}-{test}-{part}") + ".txt"), "w") as f:
        f.write(output)
    if code is None:
        outcome = "did not end"
    elif summary is None and "before first instrumented API call" in output and "PASSED" in output:
        outcome = "clean"  # a part with no cases
    elif summary is None:
        outcome = f"no summary, exit code {code}"
    elif code == FOUND or not summary[1].startswith("0 "):
        outcome = summary[1]
    else:
        outcome = "clean"
    return job, outcome, code == 1, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the tests: build-cuda/bin/cuda_gpu_test")
    parser.add_argument("--tools", default=",".join(TOOLS), help="default: %(default)s")
    parser.add_argument("--only", default="", help='regular expression on "TOOL TEST PART/PARTS"')
    parser.add_argument("--parts", type=int, default=4, help="of a test by racecheck, default: 4")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for each part")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds for all of them")
    parser.add_argument("--log", default="sanitize-cuda", help="folder for the tools' outputs")
    args = parser.parse_args()
    for needed in ("nvidia-smi", "compute-sanitizer", args.program):
        if shutil.which(needed) is None:
            sys.exit(f"sanitize-cuda.py: there is no {needed}; it needs a GPU, its driver, "
                     "NVIDIA's CUDA toolkit on the PATH, and `make cuda`")
    os.makedirs(args.log, exist_ok=True)
    start = time.monotonic()
    devices = subprocess.run(["nvidia-smi", "-L"], text=True, check=True,
                             capture_output=True).stdout.strip().splitlines()
    gpus = queue.Queue()
    for gpu in itertools.islice(itertools.cycle(range(len(devices))), args.jobs):
        gpus.put(str(gpu))
    tests = list(tests_of(args.program))
    # A part of every test before the next: a sample where time is limited. In it the longest first.
    slow = re.compile("attends|more_tiles|give_what|residuals|norms_before|every_family|"
                      "hold_no_more|take_and_leave|the_past|threads_may")
    tools = args.tools.split(",")
    jobs = sorted((job for job in jobs_of(tests, tools, args.parts)
                   if re.search(args.only, " ".join(job))),
                  key=lambda job: (int(job[2].split("/")[0]) if "GpuOps" in job[1] else 0,
                                   tools.index(job[0]), not slow.search(job[1])))
    print(f"{len(tests)} tests, {len(jobs)} parts, {args.jobs} at once on {len(devices)} GPUs",
          flush=True)

    def run_in_time(job):
        left = start + args.limit - time.monotonic()
        if left < 5:
            return job, "not started", False, 0
        return run(job, args.program, args.log, gpus, min(args.timeout, left))

    results = []
    with multi_process_service(), concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for tool in tools:  # not beside others: a fault under MPS may end them too
            _, outcome, _, seconds = run((tool, PLANTED, "0/1"), args.program, args.log, gpus, 100)
            print(f"{tool} {PLANTED}: {outcome}, {seconds:.0f} s", flush=True)
            if outcome in ("clean", "did not end") or outcome.startswith("no summary"):
                sys.exit(f"sanitize-cuda.py: {tool} does not find the fault that is there to be "
                         f"found, so what it says of the tests means nothing; see {args.log}")
        for future in concurrent.futures.as_completed([pool.submit(run_in_time, j) for j in jobs]):
            result = future.result()
            results.append(result)
            (tool, test, part), outcome, failed, seconds = result
            if outcome not in ("clean", "not started") or failed:
                print(f"{tool} {test} {part}: {outcome}{', the test failed' if failed else ''}, "
                      f"{seconds:.0f} s", flush=True)
    for tool in tools:
        mine = [r for r in results if r[0][0] == tool]
        clean = sum(r[1] == "clean" for r in mine)
        unknown = sum(r[1] in ("not started", "did not end") for r in mine)
        longest = max(mine, key=lambda r: r[3], default=None)
        print(f"{tool}: {clean} of {len(mine)} parts clean, {unknown} unknown; "
              f"longest: {longest[0][1]}, {longest[3]:.0f} s" if longest else f"{tool}: no tests")
    print(f"{time.monotonic() - start:.0f} s")
    return 0 if results and all(r[1] == "clean" for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
