cwlVersion: v1.2
class: CommandLineTool
doc: Every kind of input binding on one command line.
baseCommand: [printf, '%s\n']
inputs:
  last: {type: string, inputBinding: {position: 9}}
  number: {type: int, inputBinding: {position: 1, prefix: --number}}
  joined: {type: "string[]", inputBinding: {position: 2, prefix: --joined=, itemSeparator: ",", separate: false}}
  each:
    type: {type: array, items: string, inputBinding: {prefix: --each}}
    inputBinding: {position: 3}
  missing: {type: "string?", inputBinding: {position: 4, prefix: --missing}}
  ratio: {type: double, inputBinding: {position: 5, prefix: --ratio}}
arguments:
- {position: 0, valueFrom: --fixed}
outputs: {argv: stdout}
stdout: argv.txt
