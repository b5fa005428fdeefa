"""Longbow and PyTorch in turn on the same cores: matrix products, attention, the whole encoder. Ends with one line of JSON.

On a shared machine both suffer, PyTorch's threads more, since they wait for each other by spinning. So the comparison is kept
against us: theirs is the fastest of all calls, ours the median of medians.
"""

import argparse
import json
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


def seconds(args, work, least=0.5, most=200):
    """Fastest time of one call, repeated for `least` seconds or `most` times."""
    taken, start = [], time.perf_counter()
    while len(taken) < most and (not taken or time.perf_counter() - start < least):
        before = clock(args)()
        work()
        taken.append(clock(args)() - before)
    return min(taken)


def products(args):
    """GFLOP/s of each library's matrix product."""
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
        return {name: flops / seconds(args, run) / 1e9 for name, run in runs.items()}


def longbow(args, command, *arguments):
    threads = ["--threads", str(args.threads), *(["--cpu-time"] if args.threads == 1 else [])]
    run = [args.binary, command, "--n", str(args.n), *threads, *arguments, "--json"]
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
    """Our figures and their fastest times (ms) over rounds in which each runs once."""
    for run in runs.values():
        run()
    own, theirs = [], {name: [] for name in runs}
    for _ in range(args.rounds):
        own.append(ours())
        for name, run in runs.items():
            before = clock(args)()
            run()
            theirs[name].append((clock(args)() - before) * 1e3)
    return own, {name: min(list_) for name, list_ in theirs.items()}


def best(theirs, word):
    return min((ms for name, ms in theirs.items() if word in name), default=None)


def compare_attention(args, heads, dim):
    products_seen = []

    def ours():
        products_seen.append(products(args))
        return longbow(args, "attention", "--heads", str(heads), "--dim", str(dim), "--rounds", "5")

    own, theirs = in_turn(args, ours, attention_runs(args, heads, dim))
    gflops = statistics.median(f["gflops"] for f in own)
    product = {name: max(p[name] for p in products_seen) for name in products_seen[0]}
    fastest = max(speed for name, speed in product.items() if "f32" in name)
    return {
        "heads": heads,
        "dim": dim,
        "ours_ms": statistics.median(f["causal_ms"] for f in own),
        "ours_gflops": gflops,
        "ours_product_gflops": statistics.median(f["sgemm_gflops"] for f in own),
        "products_gflops": product,
        "over_best_product": gflops / fastest,
        "theirs_ms": theirs,
        "faster_than_compiled_f32": best(theirs, "f32, chunks") / statistics.median(f["causal_ms"] for f in own),
    }


def compare_encoder(args):
    w = hstu.Weights(args.n + 240, 64, 2, 2, 32)
    rows, times = w.user(args.n)
    runs = {}
    for chunk in args.chunks:
        runs[f"compiled f32, chunks of {chunk}"] = lambda f=hstu.Chunked(w, chunk): f(rows, times)
    if args.eager:
        runs["eager f32"] = lambda: hstu.eager(w, rows, times)
    own, theirs = in_turn(args, lambda: longbow(args, "encoder", "--rounds", "3"), runs)
    cold = statistics.median(f["at"]["cold"]["advance_ms"] + f["at"]["cold"]["finish_ms"] for f in own)
    return {
        "ours_cold_ms": cold,
        "theirs_ms": theirs,
        "faster_than_eager": theirs["eager f32"] / cold if args.eager else None,
        "faster_than_compiled": best(theirs, "compiled") / cold,
    }


def check():
    """The compiled form computes what the eager one does."""
    w = hstu.Weights(700, 64, 2, 2, 32)
    rows, times = w.user(600)
    want, got = hstu.eager(w, rows, times), hstu.Chunked(w, 256, compile=False)(rows, times)
    error = ((want - got).norm() / want.norm()).item()
    assert error < 1e-5, f"the two PyTorch forms differ by {error}"


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default=str(root / "target/release/longbow-bench"), help="longbow-bench, built with --release")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="1 counts CPU time: for a machine that others use too")
    parser.add_argument("--chunks", type=int, nargs="+", default=[128, 256, 512], help="rows of a chunk of the compiled form")
    parser.add_argument("--eager", action=argparse.BooleanOptionalAction, default=True, help="measure the eager form too (needs 8 GiB)")
    parser.add_argument("--only", choices=["products", "attention", "encoder"])
    args = parser.parse_args()
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
    print(json.dumps(figures, indent=2))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
