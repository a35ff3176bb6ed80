cwlVersion: v1.2
$graph:
  - id: main
    class: Workflow
    doc: Several sources, both ways to merge them, valueFrom and defaults.
    requirements:
      MultipleInputFeatureRequirement: {}
      StepInputExpressionRequirement: {}
      InlineJavascriptRequirement: {}
    inputs: {one: string, two: {type: string, default: second}, more: "string[]"}
    outputs:
      nested: {type: string, outputSource: nested/json}
      flat: {type: string, outputSource: flat/json}
    steps:
      nested: {run: '#as-json', in: {value: {source: [one, two], linkMerge: merge_nested}}, out: [json]}
      flat:
        run: '#as-json'
        in: {value: {source: [one, more], linkMerge: merge_flattened, valueFrom: '$(self.map(function (w) { return w + "!"; }))'}}
        out: [json]
  - class: ExpressionTool
    id: as-json
    requirements: {InlineJavascriptRequirement: {}}
    inputs: {value: Any}
    outputs: {json: string}
    expression: '${ return {json: JSON.stringify(inputs.value)}; }'
