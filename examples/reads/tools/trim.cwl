#!/usr/bin/env cwl-runner
cwlVersion: v1.2
class: CommandLineTool
doc: Cut the bad 3' ends off the reads of one sample.

baseCommand: python3

inputs:
  script:
    type: File
    default:
      class: File
      location: ../scripts/reads.py
    inputBinding:
      position: 1
  reads:
    type: File
    inputBinding:
      position: 3
  min_quality:
    type: int
    inputBinding:
      position: 4
      prefix: --min-quality
  min_length:
    type: int
    inputBinding:
      position: 5
      prefix: --min-length

arguments:
  - position: 2
    valueFrom: trim

outputs:
  trimmed:
    type: stdout

stdout: $(inputs.reads.nameroot).trimmed.fastq
