"""Draws graphs and masks from seeds and checks that slim keeps every promise (tests/property says which).

    python benchmarks/fuzz.py --graphs 100000 --seed 0 --jobs 2 --out fuzz_failures

The function, the interface, validity, determinism and the untouched input must hold for every graph. That a second slim
finds nothing more is counted, and fails with --fixpoint; that slimming ends at all (in three rounds) must hold always.

Prints every failing seed with its first line, saves a reduced reproducer as .onnx (and .txt), and ends with one line.
The same seeds draw the same graphs on every machine. Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx

from tests.property.graphs import case_of_seed
from tests.property.oracle import Mismatch
from tests.property.properties import check_slim, describe, finite, rounds_until_stable
from tests.property.reduce import failure, reduce_case, signature_of
from tests.property.subject import slim

Job = tuple[int, str | None, int, bool]
ROUNDS = 3


def check_seed(job: Job) -> tuple[int, str, float]:
    """The seed, its outcome (removed, unchanged, unstable, ill-conditioned, not finite or a message), its error."""
    seed, family, most, strict = job
    case = case_of_seed(seed, family, most)
    if not finite(case):
        return seed, "not finite", 0.0
    try:
        outcome = check_slim(case, slim, fixpoint=False)
        rounds = rounds_until_stable(outcome.small, slim)
        if rounds > ROUNDS or (rounds and strict):
            return seed, f"FAILED a second slim changes the model, {rounds} rounds", 0.0
    except Mismatch as error:
        return seed, f"FAILED {error}", 0.0
    if rounds:
        return seed, "unstable", outcome.error
    if outcome.ill_conditioned:
        return seed, "ill-conditioned", outcome.error
    return seed, "removed" if outcome.removed else "unchanged", outcome.error


def save(seed: int, family: str | None, most: int, folder: Path) -> str:
    """Writes the reduced reproducer of a failing seed; returns what identifies the bug."""
    case = reduce_case(case_of_seed(seed, family, most), slim)
    message = failure(case, slim)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(case.model, folder / f"seed_{seed}.onnx")
    (folder / f"seed_{seed}.txt").write_text(f"{message}\n\n{describe(case)}\n")
    return signature_of(case, message)


def outcomes(jobs: list[Job], processes: int) -> Iterator[tuple[int, str, float]]:
    if processes <= 1:
        yield from map(check_seed, jobs)
        return
    with multiprocessing.get_context("fork").Pool(processes) as workers:
        yield from workers.imap_unordered(check_seed, jobs, chunksize=20)


def main() -> int:
    """Runs the fuzzer; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--family", default=None)
    parser.add_argument("--most", type=int, default=8, help="most productions per graph")
    parser.add_argument("--out", type=Path, default=Path("fuzz_failures"))
    parser.add_argument("--reproducers", type=int, default=20, help="how many failures to reduce and save")
    parser.add_argument("--fixpoint", action="store_true", help="fail where a second slim finds something more")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    counts: Counter[str] = Counter()
    signatures: dict[str, list[int]] = {}
    start, worst, reduced = time.perf_counter(), 0.0, 0
    jobs = [(seed, args.family, args.most, args.fixpoint) for seed in range(args.seed, args.seed + args.graphs)]
    for seed, outcome, error in outcomes(jobs, args.jobs):
        counts[outcome.split()[0]] += 1
        worst = max(worst, error)
        if outcome.startswith("FAILED"):
            text = outcome.splitlines()[0]
            if reduced < args.reproducers:
                reduced += 1
                signature = save(seed, args.family, args.most, args.out)
                signatures.setdefault(signature, []).append(seed)
                text += f"  {signature}"
            print(f"seed {seed}: {text[:300]}", flush=True)
        if sum(counts.values()) % 5000 == 0:
            print(f"{sum(counts.values())} graphs: {dict(counts)}", file=sys.stderr, flush=True)
    print(
        f"{'FAILED' if counts['FAILED'] else 'PASSED'}: {args.graphs} graphs from seed {args.seed}: "
        f"{counts['removed']} slimmer, {counts['unchanged']} without dead weight, "
        f"{counts['unstable']} that a second slim changes, {counts['ill-conditioned']} ill-conditioned, "
        f"{counts['not']} not finite, {counts['FAILED']} failed; largest relative error {worst:.1e}; "
        f"{time.perf_counter() - start:.0f} s"
    )
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
