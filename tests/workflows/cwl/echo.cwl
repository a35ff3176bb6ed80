cwlVersion: v1.2
class: CommandLineTool
doc: A string in, a redirected stream out.
baseCommand: echo
inputs:
  message: {type: string, inputBinding: {position: 1}}
outputs:
  out: {type: stdout}
stdout: out.txt
