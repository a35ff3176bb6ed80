cwlVersion: v1.2
class: CommandLineTool
doc: Records, enumerations and unions as inputs.
requirements: {InlineJavascriptRequirement: {}}
baseCommand: [printf, '%s ']
inputs:
  pair:
    type:
      type: record
      name: pair
      fields:
        left: {type: string, inputBinding: {prefix: -l, position: 1}}
        right: {type: int, inputBinding: {prefix: -r, position: 2}}
  colour: {type: {type: enum, symbols: [red, green]}, inputBinding: {position: 3}}
  either: {type: [int, string], inputBinding: {position: 4}}
outputs: {said: {type: string, outputBinding: {glob: said.txt, loadContents: true, outputEval: '$(self[0].contents.trim())'}}}
stdout: said.txt
