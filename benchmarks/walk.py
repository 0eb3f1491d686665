"""Time and memory of the random walk, beside the usual way: a dense transition matrix squared log2(steps) times.

    python benchmarks/walk.py [--height 375 --width 500] [--classes 7] [--log-steps 8] [--repeats 5]

Features are synthetic (smooth random fields), at stride 8, radius 5, D = 256. Both sides start from the same affinities
and raise, normalise and walk; both run on NumPy / SciPy with the threads they take. Median of `--repeats`, measured
alternately in one process; peak memory of the Python allocator (tracemalloc), in a run of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from affinity import pair_affinity, random_walk


def dense_squaring(affinity: np.ndarray, scores: np.ndarray, beta: float, log_steps: int) -> np.ndarray:
    """T^(2^log_steps) as an (hw x hw) float32 matrix, as in AffinityNet's infer_aff.py, then applied."""
    transition = affinity**beta
    transition /= transition.sum(axis=1, keepdims=True)
    for _ in range(log_steps):
        transition = transition @ transition
    return (scores.reshape(len(scores), -1) @ transition.T).reshape(scores.shape)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak(work: Callable[[], object]) -> float:
    """Highest allocation above the start, in MB."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    work()
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (highest - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--classes", type=int, default=7)
    parser.add_argument("--beta", type=float, default=8)
    parser.add_argument("--log-steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    height, width, dim = -(-options.height // 8), -(-options.width // 8), 256
    fields = gaussian_filter(rng.standard_normal((dim, height, width), np.float32), (0, 4, 4))
    features = fields / fields.std() / dim
    scores = rng.random((options.classes, height, width), np.float32)
    steps = 2**options.log_steps
    print(f"{options.height} x {options.width}: {height * width} nodes, {options.classes} classes, {steps} steps")

    weights = pair_affinity(features)
    dense = weights.toarray()

    def ours() -> np.ndarray:
        return random_walk(weights, scores, options.beta, steps)

    def theirs() -> np.ndarray:
        return dense_squaring(dense, scores, options.beta, options.log_steps)

    difference = np.abs(ours() - theirs()).max()  # warms both, too
    times = {"affinity": [], "ours": [], "theirs": []}
    for _ in range(options.repeats):
        times["affinity"].append(seconds(lambda: pair_affinity(features)))
        times["ours"].append(seconds(ours))
        times["theirs"].append(seconds(theirs))
    affinity, own, other = (statistics.median(values) for values in times.values())
    print(f"affinities (sparse):    {affinity:8.3f} s, peak {peak(lambda: pair_affinity(features)):7.1f} MB")
    own_peak, other_peak = peak(ours), peak(theirs)
    print(f"walk, sparse products:  {own:8.3f} s, peak {own_peak:7.1f} MB")
    print(f"walk, dense squarings:  {other:8.3f} s, peak {other_peak:7.1f} MB + {dense.nbytes / 1e6:.1f} MB affinities")
    print(f"ratio: {other / own:.1f} times the time, {other_peak / own_peak:.1f} times the memory")
    print(f"largest difference between the two: {difference:.1e}")


if __name__ == "__main__":
    main()
