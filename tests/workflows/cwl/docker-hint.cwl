cwlVersion: v1.2
class: CommandLineTool
doc: A container that is only recommended.
hints: {DockerRequirement: {dockerPull: "debian:12"}}
baseCommand: echo
inputs: {}
arguments: [here]
outputs: {out: stdout}
stdout: out.txt
