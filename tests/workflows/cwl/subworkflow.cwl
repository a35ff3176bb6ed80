cwlVersion: v1.2
class: Workflow
doc: A workflow in a workflow, scattered.
requirements: {SubworkflowFeatureRequirement: {}, ScatterFeatureRequirement: {}}
inputs: {files: "File[]"}
outputs: {all: {type: "File[]", outputSource: inner/first}}
steps: {inner: {run: chain.cwl, scatter: lines, in: {lines: files}, out: [first]}}
