cwlVersion: v1.2
class: CommandLineTool
doc: The tool writes its own output object.
baseCommand: [sh, -c, 'echo made > f.txt; echo "{\"n\": 5, \"f\": {\"class\": \"File\", \"path\": \"f.txt\"}}" > cwl.output.json']
inputs: {}
outputs: {n: int, f: File}
