cwlVersion: v1.2
class: CommandLineTool
doc: Appends its name to a file outside the run, so that executions can be counted; `bad` fails until a cure exists.
requirements:
  ShellCommandRequirement: {}
baseCommand: [sh, -c]
inputs:
  ledger: {type: string}
  name: {type: string}
  cure: {type: string}
arguments:
  - valueFrom: 'echo "$1" >> "$0"; [ "$1" != bad ] || [ -e "$2" ] || exit 1; echo "$1"'
    position: 0
  - {valueFrom: $(inputs.ledger), position: 1}
  - {valueFrom: $(inputs.name), position: 2}
  - {valueFrom: $(inputs.cure), position: 3}
stdout: $(inputs.name).txt
outputs:
  said: {type: stdout}
