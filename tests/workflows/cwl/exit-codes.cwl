cwlVersion: v1.2
class: CommandLineTool
doc: Exit code 3 counts as success here.
successCodes: [3]
baseCommand: [sh, -c, 'exit $0']
inputs: {code: {type: int, inputBinding: {}}}
outputs: {code: {type: int, outputBinding: {outputEval: $(runtime.exitCode)}}}
