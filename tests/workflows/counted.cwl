cwlVersion: v1.2
class: CommandLineTool
doc: Appends one line to a file outside the run, so that a test can count how often it was executed.
requirements:
  ShellCommandRequirement: {}
baseCommand: [sh, -c]
inputs:
  ledger: {type: string}
  line: {type: string}
  seconds: {type: float, default: 0.2}
arguments:
  - valueFrom: 'echo "$1" >> "$0"; sleep "$2"; echo "$1"'
    position: 0
  - {valueFrom: $(inputs.ledger), position: 1}
  - {valueFrom: $(inputs.line), position: 2}
  - {valueFrom: $(inputs.seconds), position: 3}
stdout: line.txt
outputs:
  said: {type: stdout}
