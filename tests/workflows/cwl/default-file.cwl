cwlVersion: v1.2
class: CommandLineTool
doc: Files that come with the document, found from it.
baseCommand: cat
inputs:
  text: {type: File, default: {class: File, location: "data/with%20blank%231.txt"}, inputBinding: {}}
outputs: {out: stdout}
stdout: out.txt
