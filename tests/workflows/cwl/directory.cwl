cwlVersion: v1.2
class: CommandLineTool
doc: A Directory with folders in it goes in and comes out.
requirements: {LoadListingRequirement: {loadListing: shallow_listing}, InlineJavascriptRequirement: {}}
baseCommand: [cp, -r]
inputs:
  tree: {type: Directory, inputBinding: {position: 1}}
arguments: [{position: 2, valueFrom: result}]
outputs:
  result: {type: Directory, outputBinding: {glob: result}}
  entries: {type: int, outputBinding: {outputEval: $(inputs.tree.listing.length)}}
