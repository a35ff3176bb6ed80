#!/usr/bin/env python3
"""Makes the data of this example, always the same bytes: a small reference and four samples of reads drawn from it.

Two samples are good. In `liver_2` the quality falls early, in `kidney_2` a third of the reads come from another,
GC-rich genome: the report has something to show.
"""

import random
import sys
from pathlib import Path

READS, LENGTH = 200, 75
CONTIGS = {"contig_1": (6000, 0.38), "contig_2": (4000, 0.44)}
SAMPLES = {  # name: (cycle from which the quality falls, share of foreign reads)
    "kidney_1": (60, 0.0),
    "kidney_2": (60, 0.33),
    "liver_1": (55, 0.0),
    "liver_2": (22, 0.0),
}


def draw_sequence(rng: random.Random, length: int, gc: float) -> str:
    return "".join("GC"[rng.random() < 0.5] if rng.random() < gc else "AT"[rng.random() < 0.5] for _ in range(length))


def draw_qualities(rng: random.Random, falls_from: int) -> list[int]:
    """Phred scores: a short rise, a plateau, and a fall from `falls_from` on that differs from read to read."""
    slope = rng.uniform(0.2, 1.2)
    plateau = (min(38.0, 31 + cycle) - max(0, cycle - falls_from) * slope for cycle in range(LENGTH))
    return [max(2, min(40, round(score + rng.uniform(-3, 3)))) for score in plateau]


def read_with_errors(rng: random.Random, sequence: str, qualities: list[int]) -> str:
    """The bases as a sequencer would call them: the lower the quality, the more of them are wrong."""
    wrong = (rng.random() < 10 ** (-quality / 10) for quality in qualities)
    return "".join(rng.choice("ACGT") if is_wrong else base for base, is_wrong in zip(sequence, wrong, strict=True))


def draw_sample(rng: random.Random, name: str, genome: str, foreign: str) -> str:
    falls_from, foreign_share = SAMPLES[name]
    lines = []
    for number in range(1, READS + 1):
        source = foreign if rng.random() < foreign_share else genome
        start = rng.randrange(len(source) - LENGTH)
        qualities = draw_qualities(rng, falls_from)
        bases = read_with_errors(rng, source[start : start + LENGTH], qualities)
        lines += [f"@{name}:{number}", bases, "+", "".join(chr(33 + quality) for quality in qualities)]
    return "\n".join(lines) + "\n"


def as_fasta(contigs: dict[str, str]) -> str:
    lines = []
    for name, bases in contigs.items():
        lines += [f">{name}", *(bases[start : start + 70] for start in range(0, len(bases), 70))]
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    rng = random.Random(20261120)  # noqa: S311
    contigs = {name: draw_sequence(rng, length, gc) for name, (length, gc) in CONTIGS.items()}
    foreign = draw_sequence(rng, 5000, 0.66)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reference.fa").write_text(as_fasta(contigs))
    for name in SAMPLES:
        (folder / f"{name}.fastq").write_text(draw_sample(rng, name, "".join(contigs.values()), foreign))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
