cwlVersion: v1.2
class: Workflow
doc: A scatter over nothing.
requirements: {ScatterFeatureRequirement: {}}
inputs: {messages: "string[]"}
outputs: {out: {type: "File[]", outputSource: say/out}}
steps: {say: {run: echo.cwl, scatter: message, in: {message: messages}, out: [out]}}
