cwlVersion: v1.2
class: CommandLineTool
doc: Secondary files by suffix, by replaced suffix, and optional.
requirements: {InlineJavascriptRequirement: {}}
baseCommand: [sh, -c, 'cp "$0" copy.bam; cp "$0.bai" copy.bam.bai; cp "${0%.bam}.txt" copy.txt']
inputs:
  reads: {type: File, secondaryFiles: [.bai, ^.txt, .none?], inputBinding: {}}
outputs:
  copy: {type: File, secondaryFiles: [{pattern: .bai}, {pattern: ^.txt}, {pattern: .none, required: false}], outputBinding: {glob: copy.bam}}
