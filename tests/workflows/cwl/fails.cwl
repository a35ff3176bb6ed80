cwlVersion: v1.2
class: Workflow
doc: The second of three steps fails; what does not need it still runs with on-error=continue.
inputs: {}
outputs:
  independent: {type: File, outputSource: independent/out}
  dependent: {type: "File?", outputSource: dependent/sorted}
steps:
  broken:
    in: {}
    out: [out]
    run: {class: CommandLineTool, baseCommand: [sh, -c, "echo sorry >&2; exit 5"], inputs: {}, outputs: {out: stdout}, stdout: x}
  dependent: {run: sort-v1.1.cwl, in: {lines: broken/out}, out: [sorted]}
  independent: {run: echo.cwl, in: {message: {default: still here}}, out: [out]}
