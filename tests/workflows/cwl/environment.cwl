cwlVersion: v1.2
class: CommandLineTool
doc: Variables for a step, and a shell command.
requirements:
  EnvVarRequirement: {envDef: {GREETING: $(inputs.greeting)}}
  ShellCommandRequirement: {}
inputs: {greeting: string}
arguments: [{valueFrom: 'echo "$GREETING" | tr a-z A-Z', shellQuote: false}]
outputs: {out: stdout}
stdout: out.txt
