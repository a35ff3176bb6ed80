cwlVersion: v1.2
class: CommandLineTool
doc: The contents of many files, sorted; appends `gather` to a file outside the run.
requirements:
  ShellCommandRequirement: {}
baseCommand: [sh, -c]
inputs:
  ledger: {type: string}
  files: {type: 'File[]', inputBinding: {position: 2}}
arguments:
  - valueFrom: 'echo gather >> "$0"; sort "$@"'
    position: 0
  - {valueFrom: $(inputs.ledger), position: 1}
stdout: all.txt
outputs:
  all: {type: stdout}
