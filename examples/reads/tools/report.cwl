#!/usr/bin/env cwl-runner
cwlVersion: v1.2
class: CommandLineTool
doc: One table, one JSON document and one page with plots about all samples.

baseCommand: python3

inputs:
  script:
    type: File
    default:
      class: File
      location: ../scripts/report.py
    inputBinding:
      position: 1
  measurements:
    type: File[]
    inputBinding:
      position: 2
  reference:
    type: File
    inputBinding:
      position: 3
      prefix: --reference
  min_mean_length:
    type: float
    inputBinding:
      position: 4
      prefix: --min-mean-length
  max_gc_shift:
    type: float
    inputBinding:
      position: 5
      prefix: --max-gc-shift

outputs:
  table:
    type: File
    outputBinding:
      glob: summary.tsv
  summary:
    type: File
    outputBinding:
      glob: summary.json
  page:
    type: File
    outputBinding:
      glob: report.html
