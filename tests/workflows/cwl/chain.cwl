cwlVersion: v1.2
class: Workflow
doc: Two steps from files beside it, in an order other than the document's.
inputs: {lines: File}
outputs: {first: {type: File, outputSource: reverse/sorted}}
steps:
  reverse: {run: sort-v1.1.cwl, in: {lines: forward/sorted, reverse: {default: true}}, out: [sorted]}
  forward: {run: sort-v1.1.cwl, in: {lines: lines}, out: [sorted]}
