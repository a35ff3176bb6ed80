#!/usr/bin/env python3
"""Prints the GC content of a FASTA reference, over all bases and as a histogram over windows of a read's length."""

import argparse
import json
import sys
from pathlib import Path


def read_fasta(path):
    """The bases of every contig, by name."""
    contigs, name = {}, ""
    with path.open(encoding="ascii") as file:
        for line in file:
            if line.startswith(">"):
                name = line[1:].split()[0]
                contigs[name] = []
            elif not name:
                sys.exit(f"{path}: a FASTA file begins with '>'")
            else:
                contigs[name].append(line.strip().upper())
    return {name: "".join(lines) for name, lines in contigs.items()}


def gc_share(bases):
    return (bases.count("G") + bases.count("C")) / max(1, len(bases))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--window", type=int, required=True)
    arguments = parser.parse_args()
    contigs = read_fasta(arguments.fasta)
    histogram = [0] * 20
    for bases in contigs.values():
        for start in range(len(bases) - arguments.window + 1):
            histogram[min(19, int(gc_share(bases[start : start + arguments.window]) * 20))] += 1
    result = {
        "contigs": {name: len(bases) for name, bases in contigs.items()},
        "gc_percent": round(100 * gc_share("".join(contigs.values())), 2),
        "gc_histogram": histogram,
    }
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
