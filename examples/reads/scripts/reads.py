#!/usr/bin/env python3
"""Works on a FASTQ file: `trim` cuts bad ends off, `measure` counts quality and GC. Needs the standard library only."""

import argparse
import json
import sys
from collections import Counter
from itertools import zip_longest
from pathlib import Path


def read_fastq(path):
    """(name, bases, Phred scores) of every read. Ends the program where the file is no FASTQ."""
    with path.open(encoding="ascii") as file:
        lines = (line.rstrip("\n") for line in file)
        for number, (name, bases, plus, quality) in enumerate(zip_longest(*[lines] * 4, fillvalue="")):
            if not name.startswith("@") or not plus.startswith("+") or len(bases) != len(quality):
                sys.exit(f"{path}: line {4 * number + 1} does not begin a FASTQ record")
            yield name[1:], bases, [ord(letter) - 33 for letter in quality]


def trim(arguments):
    """Print the reads without their bad 3' ends; reads that become too short are left out."""
    seen = kept = 0
    for name, bases, scores in read_fastq(arguments.fastq):
        seen += 1
        end = len(bases)
        while end and scores[end - 1] < arguments.min_quality:
            end -= 1
        if end >= arguments.min_length:
            kept += 1
            quality = "".join(chr(33 + score) for score in scores[:end])
            print(f"@{name}\n{bases[:end]}\n+\n{quality}")
    print(f"{arguments.fastq.name}: kept {kept} of {seen} reads", file=sys.stderr)


def measure(arguments):
    """Print mean quality by cycle and the GC content, over all bases and as a histogram over reads, as JSON."""
    sums, counts, bases_seen, histogram = [], [], Counter(), Counter()
    reads = 0
    for _, bases, scores in read_fastq(arguments.fastq):
        reads += 1
        sums += [0] * (len(scores) - len(sums))
        counts += [0] * (len(scores) - len(counts))
        for cycle, score in enumerate(scores):
            sums[cycle] += score
            counts[cycle] += 1
        bases_seen.update(bases)
        gc = (bases.count("G") + bases.count("C")) / max(1, len(bases))
        histogram[min(19, int(gc * 20))] += 1
    total = sum(bases_seen.values())
    result = {
        "sample": arguments.sample,
        "reads": reads,
        "bases": total,
        "mean_length": round(total / max(1, reads), 2),
        "mean_quality": round(sum(sums) / max(1, total), 2),
        "quality_by_cycle": [round(score / count, 2) for score, count in zip(sums, counts, strict=True)],
        "gc_percent": round(100 * (bases_seen["G"] + bases_seen["C"]) / max(1, total), 2),
        "gc_histogram": [histogram[bin_] for bin_ in range(20)],
    }
    json.dump(result, sys.stdout, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    trimming = commands.add_parser("trim", help=trim.__doc__)
    trimming.set_defaults(run=trim)
    trimming.add_argument("fastq", type=Path)
    trimming.add_argument("--min-quality", type=int, required=True)
    trimming.add_argument("--min-length", type=int, required=True)
    measuring = commands.add_parser("measure", help=measure.__doc__)
    measuring.set_defaults(run=measure)
    measuring.add_argument("fastq", type=Path)
    measuring.add_argument("--sample", required=True)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
