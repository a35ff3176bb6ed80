cwlVersion: v1.2
class: Workflow
doc: Steps that run only when told to; the first that did is picked.
requirements: {InlineJavascriptRequirement: {}, MultipleInputFeatureRequirement: {}}
inputs: {loud: boolean, message: string}
outputs:
  said: {type: File, outputSource: [shout/out, whisper/out], pickValue: first_non_null}
steps:
  shout: {run: echo.cwl, when: $(inputs.loud), in: {loud: loud, message: message}, out: [out]}
  whisper: {run: echo.cwl, when: $(!inputs.loud), in: {loud: loud, message: message}, out: [out]}
