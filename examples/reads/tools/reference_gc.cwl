#!/usr/bin/env cwl-runner
cwlVersion: v1.2
class: CommandLineTool
doc: GC content of the reference in windows of a read's length.

baseCommand: python3

inputs:
  script:
    type: File
    default:
      class: File
      location: ../scripts/reference_gc.py
    inputBinding:
      position: 1
  reference:
    type: File
    inputBinding:
      position: 2
  window:
    type: int
    inputBinding:
      position: 3
      prefix: --window

outputs:
  measurement:
    type: stdout

stdout: reference.json
