"""One repetition per line: the peers' side of `cargo xtask bench-peers`. server.rs is ours.

A request is a line that names a case; the answer is the repetition's milliseconds, a tab, and what else there is to
tell.
"""

import contextlib
import os
import sys
import time

THREADS = int(os.environ.get("CBN_BENCH_THREADS", "2"))
ANSWERS = sys.stdout


def serve(repetition):
    """Answers until the input ends; `repetition` takes the request and returns seconds and a note."""
    for request in sys.stdin:
        seconds, note = repetition(request.rstrip("\n"))
        print(f"{seconds * 1e3}\t{note}", file=ANSWERS, flush=True)


@contextlib.contextmanager
def answers_alone():
    """Drops what libraries print, so that the output has answers only."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def timed(run):
    """Seconds that `run` takes, and what it returns."""
    start = time.perf_counter()
    value = run()
    return time.perf_counter() - start, value


def shorter(run):
    """Seconds of the shorter of two runs in a row; server.rs says why."""
    return min(timed(run)[0] for _ in range(2))


def torch_layout():
    """The memory format that the environment names, with PyTorch's threads set."""
    import torch

    torch.set_num_threads(THREADS)
    return {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}[os.environ["CBN_BENCH_LAYOUT"]]
