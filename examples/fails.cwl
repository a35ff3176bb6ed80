#!/usr/bin/env cwl-runner
cwlVersion: v1.2
class: Workflow
label: A workflow that fails on purpose
doc: >
  The first step lists the samples of a run sheet and succeeds. The second one finds that a sample has no reads, says so
  on its standard error and exits with 3. Use it to see what a failed run looks like.

inputs:
  sheet:
    type: File
    doc: One line a sample, name and number of reads, separated by a tab

outputs:
  checked:
    type: File
    outputSource: check/report

steps:
  list_samples:
    in:
      sheet: sheet
    out: [names]
    run:
      class: CommandLineTool
      baseCommand: [cut, -f1]
      inputs:
        sheet:
          type: File
          inputBinding:
            position: 1
      outputs:
        names:
          type: stdout
      stdout: samples.txt

  check:
    in:
      sheet: sheet
      names: list_samples/names
    out: [report]
    run:
      class: CommandLineTool
      baseCommand: sh
      inputs:
        script:
          type: File
          default:
            class: File
            location: fails_check.sh
          inputBinding:
            position: 1
        names:
          type: File
          inputBinding:
            position: 2
        sheet:
          type: File
          inputBinding:
            position: 3
      outputs:
        report:
          type: stdout
      stdout: report.txt
