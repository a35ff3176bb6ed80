#!/bin/sh
# Usage: fails_check.sh SAMPLES SHEET. Prints a line a sample; ends with 3 at a sample without reads.
listed=$(wc -l <"$1")
line=0
while read -r sample reads; do
    line=$((line + 1))
    if [ "$reads" -eq 0 ]; then
        echo "ERROR: sample $sample (line $line of ${2##*/}) has no reads." >&2
        echo "Remove it from the sheet, or sequence it again." >&2
        exit 3
    fi
    echo "$sample: $reads reads, one of $((listed)) samples"
done <"$2"
