"""Longbow and PyTorch in turn on the same cores: matrix products, attention, the whole encoder. Prints a table with the goals, with
--json one line of JSON after it.

Ratios of medians are what the goals speak of. On a shared machine both sides suffer, PyTorch's threads more, since they wait for
each other by spinning: the column "worst" therefore holds our median against the fastest of all their calls.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

import numpy
import torch
import torch.utils.mkldnn

import hstu

PRODUCT = (4096, 256, 256)


def clock(args):
    """Wall time; with one thread its CPU time, which others on the machine do not lengthen."""
    return time.thread_time if args.threads == 1 else time.perf_counter


# PyTorch's threads spin for a while after their last call; ours are not to be measured beside them.
SPIN_S = 0.3


def seconds(args, work, least=0.5, most=200):
    """Median and fastest time of one call, repeated for `least` seconds or `most` times."""
    taken, start = [], time.perf_counter()
    while len(taken) < most and (not taken or time.perf_counter() - start < least):
        before = clock(args)()
        work()
        taken.append(clock(args)() - before)
    return statistics.median(taken), min(taken)


def products(args):
    """GFLOP/s of each library's matrix product: median and fastest."""
    m, k, n = PRODUCT
    a, b, c = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    na, nb, nc = a.numpy(), b.numpy(), c.numpy()
    linear = torch.nn.Linear(k, n, bias=False)
    a16, b16, c16 = a.bfloat16(), b.bfloat16(), c.bfloat16()
    with torch.no_grad():
        runs = {
            "mkl f32 (torch.mm)": lambda: torch.mm(a, b, out=c),
            "openblas f32 (numpy)": lambda: numpy.matmul(na, nb, out=nc),
            "bf16 (torch.mm)": lambda: torch.mm(a16, b16, out=c16),
        }
        onednn, dense = torch.utils.mkldnn.to_mkldnn(linear), a.to_mkldnn()
        runs["onednn f32 (mkldnn linear)"] = lambda: onednn(dense)
        flops = 2 * m * k * n
        return {name: [flops / s / 1e9 for s in seconds(args, run)] for name, run in runs.items()}


def longbow(args, command, *arguments):
    threads = ["--threads", str(args.threads), *(["--cpu-time"] if args.threads == 1 else [])]
    run = [args.binary, command, "--n", str(args.n), *threads, *arguments, "--json"]
    time.sleep(SPIN_S)
    line = subprocess.run(run, check=True, capture_output=True, text=True)
    return json.loads(line.stdout.strip().splitlines()[-1])


def attention_runs(args, heads, dim):
    """PyTorch's attention of one layer in each form: name -> callable."""
    w = hstu.Weights(args.n + 240, heads * dim, 1, heads, dim)
    rows, times = w.user(args.n)
    _, v, q, k = hstu.project(w, w.layers[0], rows)
    runs = {}
    for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
        for chunk in args.chunks:
            form = hstu.Chunked(w, chunk, dtype)
            buckets = form.buckets(times)
            runs[f"compiled {name}, chunks of {chunk}"] = lambda f=form, b=buckets: f.attention(0, q, k, v, b)
    if args.eager:
        runs["eager f32"] = lambda: hstu.eager_attention(w, w.layers[0], q, k, v, times)
    return runs


def in_turn(args, ours, runs):
    """Our figures, and the median and the fastest of their times (ms), over rounds in which each runs once."""
    for run in runs.values():
        run()
    own, theirs = [], {name: [] for name in runs}
    for _ in range(args.rounds):
        own.append(ours())
        for name, run in runs.items():
            before = clock(args)()
            run()
            theirs[name].append((clock(args)() - before) * 1e3)
    return own, {name: [statistics.median(taken), min(taken)] for name, taken in theirs.items()}


def best(theirs, word):
    """Of the forms with `word` in their name: the least median and the least of all times."""
    found = [times for name, times in theirs.items() if word in name]
    return [min(column) for column in zip(*found)] if found else None


def over(theirs, ours):
    """How many times ours goes into theirs: by medians, and our median against their fastest."""
    return [ms / ours for ms in theirs] if theirs else None


def median_of(figures, pick):
    return statistics.median(pick(f) for f in figures)


def compare_attention(args, heads, dim):
    """One shape: ours in f32 and with keys and values in bf16, the products of the same rounds, PyTorch's forms."""
    seen, rounded = [], []
    shape = ("--heads", str(heads), "--dim", str(dim), "--rounds", "5")

    def ours():
        seen.append(products(args))
        rounded.append(longbow(args, "attention", *shape, "--dtype", "bf16"))
        return longbow(args, "attention", *shape)

    own, theirs = in_turn(args, ours, attention_runs(args, heads, dim))
    product = {name: [median_of(seen, lambda p, n=name: p[n][0]), max(p[name][1] for p in seen)] for name in seen[0]}
    sgemm = [max(speeds) for speeds in zip(*(speeds for name, speeds in product.items() if "f32" in name))]
    gflops, gflops16 = median_of(own, lambda f: f["gflops"]), median_of(rounded, lambda f: f["gflops"])
    ms, ms16 = median_of(own, lambda f: f["causal_ms"]), median_of(rounded, lambda f: f["causal_ms"])
    return {
        "heads": heads,
        "dim": dim,
        "isa": own[0]["isa"],
        "bf16_isa": rounded[0]["isa"],
        "ours_ms": ms,
        "ours_bf16_ms": ms16,
        "ours_gflops": gflops,
        "ours_bf16_gflops": gflops16,
        "ours_product_gflops": median_of(own, lambda f: f["sgemm_gflops"]),
        "products_gflops": product,
        "over_best_product": [gflops / speed for speed in sgemm],
        "bf16_over_best_product": [gflops16 / speed for speed in sgemm],
        "history_over_candidates_bf16": median_of(rounded, lambda f: f["causal_ms"] / f["candidates_ms"]),
        "theirs_ms": theirs,
        "faster_than_compiled_f32": over(best(theirs, "compiled f32"), ms),
        "bf16_faster_than_compiled_bf16": over(best(theirs, "compiled bf16"), ms16),
    }


def compare_encoder(args):
    w = hstu.Weights(args.n + 240, 64, 2, 2, 32)
    rows, times = w.user(args.n)
    runs = {}
    for chunk in args.chunks:
        for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
            runs[f"compiled {name}, chunks of {chunk}"] = lambda f=hstu.Chunked(w, chunk, dtype): f(rows, times)
    if args.eager:
        runs["eager f32"] = lambda: hstu.eager(w, rows, times)
    rounded = []

    def ours():
        rounded.append(longbow(args, "encoder", "--rounds", "3", "--dtype", "bf16"))
        return longbow(args, "encoder", "--rounds", "3")

    own, theirs = in_turn(args, ours, runs)

    def encode(f):
        return f["at"]["cold"]["advance_ms"] + f["at"]["cold"]["finish_ms"]

    cold, cold16 = median_of(own, encode), median_of(rounded, encode)
    return {
        "bf16_isa": rounded[0]["isa"],
        "ours_cold_ms": cold,
        "ours_bf16_cold_ms": cold16,
        "theirs_ms": theirs,
        "faster_than_eager": over(best(theirs, "eager"), cold),
        "faster_than_compiled_f32": over(best(theirs, "compiled f32"), cold),
        "bf16_faster_than_compiled_bf16": over(best(theirs, "compiled bf16"), cold16),
        "cold_over_warm": median_of(own, lambda f: f["cold_over_warm"]),
        "cold_over_warm_without_scoring": median_of(own, lambda f: f["cold_over_warm_without_scoring"]),
    }


def check():
    """The compiled form computes what the eager one does."""
    w = hstu.Weights(700, 64, 2, 2, 32)
    rows, times = w.user(600)
    want, got = hstu.eager(w, rows, times), hstu.Chunked(w, 256, compile=False)(rows, times)
    error = ((want - got).norm() / want.norm()).item()
    assert error < 1e-5, f"the two PyTorch forms differ by {error}"


def goal16(goal, isa, shape=""):
    """A goal for bf16, which is set for a CPU with AMX; what ran where that is something else (AVX-512 BF16, or widening to f32)."""
    return f"{goal}{shape}" if isa == "amx" else f"{goal} with AMX{shape}; ran {isa}"


def table(figures):
    """Rows of (what, figure, by medians, worst, goal)."""
    for name, speeds in figures.get("products", {}).items():
        yield f"product 4096x256x256, {name}", f"{speeds[0]:.0f} GFLOP/s", None, None, ""
    goals = {(2, 32): (0.75, 2.4, 4, 12), (4, 64): (0.90, 3.8, 2.8, 9)}
    for f in figures.get("attention", []):
        shape = f"attention H={f['heads']} d={f['dim']}"
        goal = goals[f["heads"], f["dim"]]
        ms, ms16 = f"{f['ours_ms']:.1f} ms", f"{f['ours_bf16_ms']:.1f} ms"
        yield f"{shape}, f32 / best sgemm", ms, *f["over_best_product"], goal[0]
        yield f"{shape}, bf16 / best sgemm", ms16, *f["bf16_over_best_product"], goal16(goal[1], f["bf16_isa"])
        yield f"{shape}, f32 over PyTorch compiled", ms, *f["faster_than_compiled_f32"], goal[2]
        yield f"{shape}, bf16 over PyTorch compiled", ms16, *f["bf16_faster_than_compiled_bf16"], goal16(goal[3], f["bf16_isa"])
        yield f"{shape}, history over candidates, bf16", "", f["history_over_candidates_bf16"], None, goal16(10, f["bf16_isa"], " at d=64")
    f = figures.get("encoder")
    if f:
        cold, cold16 = f"{f['ours_cold_ms']:.1f} ms", f"{f['ours_bf16_cold_ms']:.1f} ms"
        if f["faster_than_eager"]:
            yield "encoder cold, f32 over PyTorch eager", cold, *f["faster_than_eager"], 40
        yield "encoder cold, f32 over PyTorch compiled", cold, *f["faster_than_compiled_f32"], 3
        yield "encoder cold, bf16 over PyTorch compiled", cold16, *f["bf16_faster_than_compiled_bf16"], goal16(8, f["bf16_isa"])
        yield "encoder, cold over warm", "", f["cold_over_warm"], None, 50
        yield "encoder, cold over warm without scoring", "", f["cold_over_warm_without_scoring"], None, ""


def show(figures):
    print(f"{'':<48}{'ours':>14}{'medians':>10}{'worst':>8}  goal")
    for what, figure, medians, worst, goal in table(figures):
        cells = ["" if x is None else f"{x:.2f}" for x in (medians, worst)]
        print(f"{what:<48}{figure:>14}{cells[0]:>10}{cells[1]:>8}  {goal}")


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default=str(pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release/longbow-bench"), help="longbow-bench, built with --release")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="1 counts CPU time: for a machine that others use too")
    parser.add_argument("--chunks", type=int, nargs="+", default=[128, 256, 512], help="rows of a chunk of the compiled form")
    parser.add_argument("--eager", action=argparse.BooleanOptionalAction, default=True, help="measure the eager form too (needs 8 GiB)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--only", choices=["products", "attention", "encoder"])
    args = parser.parse_args()
    if not pathlib.Path(args.binary).is_file():
        parser.error(f"--binary {args.binary}: is not there; cargo build --release -p longbow-bench makes it")
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    check()
    figures = {"torch": torch.__version__, "n": args.n, "threads": args.threads}
    if args.only in (None, "products"):
        figures["products"] = products(args)
    if args.only in (None, "attention"):
        figures["attention"] = [compare_attention(args, 2, 32), compare_attention(args, 4, 64)]
    if args.only in (None, "encoder"):
        figures["encoder"] = compare_encoder(args)
    show(figures)
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
