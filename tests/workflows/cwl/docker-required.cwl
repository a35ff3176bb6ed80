cwlVersion: v1.2
class: CommandLineTool
doc: A container that must be there.
requirements: {DockerRequirement: {dockerPull: "debian:12"}}
baseCommand: "true"
inputs: {}
outputs: {}
