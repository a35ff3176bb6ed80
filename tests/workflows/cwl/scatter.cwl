cwlVersion: v1.2
$graph:
  - id: main
    class: Workflow
    doc: One scatter for each method.
    requirements: {ScatterFeatureRequirement: {}, InlineJavascriptRequirement: {}}
    inputs: {a: "string[]", b: "string[]"}
    outputs:
      dot: {type: "string[]", outputSource: dot/joined}
      flat: {type: "string[]", outputSource: flat/joined}
      nested: {type: {type: array, items: {type: array, items: string}}, outputSource: nested/joined}
    steps:
      dot: {run: '#join', scatter: [a, b], scatterMethod: dotproduct, in: {a: a, b: b}, out: [joined]}
      flat: {run: '#join', scatter: [a, b], scatterMethod: flat_crossproduct, in: {a: a, b: b}, out: [joined]}
      nested: {run: '#join', scatter: [a, b], scatterMethod: nested_crossproduct, in: {a: a, b: b}, out: [joined]}
  - class: ExpressionTool
    id: join
    requirements: {InlineJavascriptRequirement: {}}
    inputs: {a: string, b: string}
    outputs: {joined: string}
    expression: '${ return {joined: inputs.a + inputs.b}; }'
