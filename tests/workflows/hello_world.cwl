#!/usr/bin/env cwl-runner
cwlVersion: v1.0
class: CommandLineTool
label: Hello World
doc: Writes a greeting to hello_world.txt. Every input has a default, so it runs without parameters.

baseCommand: echo

inputs:
  message:
    type: string
    default: Hello World
    inputBinding:
      position: 1

outputs:
  greeting:
    type: stdout

stdout: hello_world.txt
