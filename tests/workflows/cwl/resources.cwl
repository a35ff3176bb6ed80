cwlVersion: v1.2
class: CommandLineTool
doc: What was asked for is what runtime says.
requirements: {ResourceRequirement: {coresMin: 1, ramMin: 64, tmpdirMin: 10, outdirMin: 10}}
baseCommand: echo
inputs: {}
arguments: [$(runtime.cores), $(runtime.ram)]
outputs: {out: stdout}
stdout: out.txt
