#!/usr/bin/env python3
"""Merges the measurements of all samples: summary.tsv, summary.json, and report.html with two plots and no scripts."""

import argparse
import json
import math
from html import escape
from pathlib import Path

COLUMNS = ("sample", "reads", "bases", "mean_length", "mean_quality", "gc_percent", "gc_shift", "verdict")
LINES = (("#0b62a4", ""), ("#b3560b", "7 3"), ("#3b7a1e", "2 3"), ("#8e2c82", "9 3 2 3"), ("#555555", "4 4"))
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 300, 50, 28, 130, 40

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Reads: quality and GC</title>
<style>
 body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem;
   color: #1c1c1c; background: #fff }}
 table {{ border-collapse: collapse }}
 th, td {{ padding: .25rem .75rem; border-bottom: 1px solid #bbb; text-align: right }}
 th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left }}
 svg {{ max-width: 100%; height: auto }}
</style>
</head>
<body>
<h1>Reads: quality and GC</h1>
<p>{count} samples against a reference of {contigs} contigs with {gc} % GC.</p>
<table>
<caption>After trimming</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<h2>Mean quality by cycle</h2>
{quality}
<h2>GC content of reads and of the reference</h2>
{gc_plot}
</body>
</html>
"""


def summarize(sample, reference, limits):
    """A row of the summary; the verdict names what is out of the ordinary."""
    shift = round(sample["gc_percent"] - reference["gc_percent"], 2)
    problems = []
    if sample["reads"] == 0:
        problems.append("no reads")
    elif sample["mean_length"] < limits.min_mean_length:
        problems.append("short reads")
    if abs(shift) > limits.max_gc_shift:
        problems.append("GC differs from the reference")
    row = {column: sample[column] for column in COLUMNS if column in sample}
    return {**row, "gc_shift": shift, "verdict": ", ".join(problems) or "good"}


def as_shares(histogram):
    total = max(1, sum(histogram))
    return [100 * count / total for count in histogram]


def plot(title, x_label, y_label, series, x_values, x_last):
    """An SVG line plot. `series`: name -> values; lines differ by colour and by dashes and are named at their side."""
    y_last = 10 * math.ceil(max((value for values in series.values() for value in values), default=1) / 10)

    def place(x, y):
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * x / x_last,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / y_last,
        )

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{escape(title)}">']
    parts.append(f"<title>{escape(title)}</title>")
    for step in range(6):
        x, y = x_last * step / 5, y_last * step / 5
        (across, _), (_, up) = place(x, 0), place(0, y)
        parts.append(f'<path d="M{LEFT} {up:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end" font-size="12">{y:.0f}</text>')
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - 22}" text-anchor="middle" font-size="12">{x:.0f}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle" font-size="13">{escape(x_label)}</text>')
    parts.append(f'<text x="4" y="12" font-size="13">{escape(y_label)}</text>')
    for number, (name, values) in enumerate(series.items()):
        colour, dashes = LINES[number % len(LINES)]
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(x_values, values, strict=False))
        stroke = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        side, row = WIDTH - RIGHT + 10, TOP + 10 + 20 * number
        parts.append(f'<polyline points="{points}" {stroke}/>')
        parts.append(f'<path d="M{side} {row}h28" {stroke}/>')
        parts.append(f'<text x="{side + 34}" y="{row + 4}" font-size="13">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])


def render(rows, samples, reference):
    cycles = range(1, 1 + max(len(sample["quality_by_cycle"]) for sample in samples))
    quality = {sample["sample"]: sample["quality_by_cycle"] for sample in samples}
    shares = {sample["sample"]: as_shares(sample["gc_histogram"]) for sample in samples}
    shares["reference"] = as_shares(reference["gc_histogram"])
    return PAGE.format(
        count=len(samples),
        contigs=len(reference["contigs"]),
        gc=reference["gc_percent"],
        head="".join(f'<th scope="col">{column.replace("_", " ")}</th>' for column in COLUMNS),
        rows="\n".join(
            "<tr>" + "".join(f"<td>{escape(str(row[column]))}</td>" for column in COLUMNS) + "</tr>" for row in rows
        ),
        quality=plot("Mean quality by cycle", "cycle", "Phred quality", quality, cycles, max(cycles, default=1)),
        gc_plot=plot("Reads by GC content", "GC in %", "% of reads", shares, range(2, 100, 5), 100),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", nargs="+", type=Path)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--min-mean-length", type=float, required=True)
    parser.add_argument("--max-gc-shift", type=float, required=True)
    arguments = parser.parse_args()
    reference = json.loads(arguments.reference.read_text())
    samples = sorted((json.loads(path.read_text()) for path in arguments.samples), key=lambda each: each["sample"])
    rows = [summarize(sample, reference, arguments) for sample in samples]
    table = ["\t".join(COLUMNS), *("\t".join(str(row[column]) for column in COLUMNS) for row in rows)]
    Path("summary.tsv").write_text("\n".join(table) + "\n")
    Path("summary.json").write_text(json.dumps({"reference": reference, "samples": rows}, indent=1) + "\n")
    Path("report.html").write_text(render(rows, samples, reference))


if __name__ == "__main__":
    main()
