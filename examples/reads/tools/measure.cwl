#!/usr/bin/env cwl-runner
cwlVersion: v1.2
class: CommandLineTool
doc: Quality by cycle and GC content of one sample.

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
  sample:
    type: File
    doc: The file that gives the sample its name

arguments:
  - position: 2
    valueFrom: measure
  - position: 4
    prefix: --sample
    valueFrom: $(inputs.sample.nameroot)

outputs:
  measurement:
    type: stdout

stdout: $(inputs.sample.nameroot).json
