cwlVersion: v1.2
class: CommandLineTool
doc: A type from another document, and metadata with namespaces.
$namespaces: {s: "https://schema.org/"}
s:author: {class: s:Person, s:name: Ada}
requirements:
  SchemaDefRequirement: {types: [{$import: types.yml}]}
  InlineJavascriptRequirement: {}
baseCommand: echo
inputs: {sample: types.yml#Sample}
arguments: [$(inputs.sample.id), $(inputs.sample.depth)]
outputs: {out: stdout}
stdout: out.txt
