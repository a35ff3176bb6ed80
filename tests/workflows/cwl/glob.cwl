cwlVersion: v1.2
class: CommandLineTool
doc: Patterns, several of them, nothing found, and names with blanks.
baseCommand: [touch, a.txt, b.txt, "c d.log"]
inputs: {}
outputs:
  texts: {type: "File[]", outputBinding: {glob: "*.txt"}}
  all: {type: "File[]", outputBinding: {glob: ["*.log", "a.*"]}}
  none: {type: "File?", outputBinding: {glob: "*.none"}}
