cwlVersion: v1.2
class: Workflow
doc: A link to nowhere.
inputs: {}
outputs: {x: {type: File, outputSource: nobody/out}}
steps: {}
