cwlVersion: v1.2
class: CommandLineTool
doc: A step that outlives its limit.
requirements: {ToolTimeLimit: {timelimit: 1}}
baseCommand: [sleep, "300"]
inputs: {}
outputs: {}
