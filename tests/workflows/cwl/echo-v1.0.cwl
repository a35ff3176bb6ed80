cwlVersion: v1.0
class: CommandLineTool
doc: The oldest version, lists instead of maps.
baseCommand: [echo, -n]
inputs:
- id: message
  type: string
  default: "default words"
  inputBinding: {position: 1}
outputs:
- id: out
  type: File
  outputBinding: {glob: out.txt}
stdout: out.txt
