cwlVersion: v1.2
class: CommandLineTool
doc: Files made before the command starts, and one that it may change.
requirements:
  InlineJavascriptRequirement: {}
  InitialWorkDirRequirement:
    listing:
    - {entryname: script.sh, entry: "echo made by $(inputs.who) >> notes.txt; cat notes.txt\n"}
    - {entryname: notes.txt, entry: $(inputs.notes), writable: true}
    - {entryname: values.json, entry: '${ return JSON.stringify({n: 1}); }'}
baseCommand: [sh, script.sh]
inputs: {who: string, notes: File}
outputs:
  said: stdout
  notes: {type: File, outputBinding: {glob: notes.txt}}
  values: {type: File, outputBinding: {glob: values.json}}
stdout: said.txt
