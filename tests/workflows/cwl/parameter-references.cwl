cwlVersion: v1.2
class: CommandLineTool
doc: Parameter references without JavaScript.
baseCommand: echo
inputs:
  data: File
arguments: [$(inputs.data.basename), $(inputs.data.nameroot), $(inputs.data.nameext), $(inputs.data.size), "$(inputs['data'].class)!"]
outputs: {out: stdout}
stdout: $(inputs.data.nameroot).out
