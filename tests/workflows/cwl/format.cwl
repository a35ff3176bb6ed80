cwlVersion: v1.2
class: CommandLineTool
doc: File formats, checked against an ontology that comes along.
$namespaces: {f: "http://formats.test/"}
$schemas: [formats.ttl]
baseCommand: cat
inputs: {data: {type: File, format: f:text, inputBinding: {}}}
outputs: {out: {type: File, format: $(inputs.data.format), outputBinding: {glob: out.txt}}}
stdout: out.txt
