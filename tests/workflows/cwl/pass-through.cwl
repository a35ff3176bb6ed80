cwlVersion: v1.2
class: Workflow
doc: An input as an output, and an input that nobody uses.
inputs: {data: File, unused: "string?"}
outputs: {data: {type: File, outputSource: data}}
steps: []
