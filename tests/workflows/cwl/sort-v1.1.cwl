cwlVersion: v1.1
class: CommandLineTool
doc: Standard input from a File, an optional flag, standard output to a File.
baseCommand: sort
stdin: $(inputs.lines.path)
stdout: sorted.txt
inputs:
  lines: File
  reverse: {type: boolean?, inputBinding: {prefix: -r}}
outputs:
  sorted: stdout
