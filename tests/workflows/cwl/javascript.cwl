cwlVersion: v1.2
class: ExpressionTool
doc: A library and a function body.
requirements:
  InlineJavascriptRequirement:
    expressionLib: [{$include: triple.js}]
inputs: {n: "int[]"}
outputs: {sum: int, tripled: "int[]", missing: "string?"}
expression: |
  ${
    return {sum: inputs.n.reduce(function (a, b) { return a + b; }, 0), tripled: inputs.n.map(triple), missing: null};
  }
