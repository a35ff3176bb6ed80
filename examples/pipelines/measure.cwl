cwlVersion: v1.2
class: CommandLineTool
doc: The length and the GC percentage of one sample's sequence; fails where there are other letters than ACGT.
requirements:
  InitialWorkDirRequirement:
    listing:
      - entryname: measure.awk
        entry: |
          length($2) == 0 || $2 ~ /[^ACGT]/ {
            print $1 ": no sequence of ACGT" > "/dev/stderr"
            exit 1
          }
          {
            strong = gsub(/[GC]/, "", $2)
            total = strong + length($2)
            printf "%s\t%d\t%.1f\n", $1, total, 100 * strong / total
          }
      - entryname: sample.txt
        entry: $(inputs.name) $(inputs.sequence)
baseCommand: [awk, -f, measure.awk, sample.txt]
inputs:
  name: string
  sequence: string
stdout: $(inputs.name).tsv
outputs:
  table: {type: stdout}
