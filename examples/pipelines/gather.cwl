cwlVersion: v1.2
class: CommandLineTool
doc: The rows of many tables in one.
baseCommand: cat
inputs:
  tables:
    type: File[]
    inputBinding: {position: 1}
stdout: cohort.tsv
outputs:
  table: {type: stdout}
