"""Pipelines of runs, without running them: a document, its graph, and what to do next. Pure: no I/O, no clock, no SQL.

document    the JSON or YAML that a user writes, as a pydantic model
references  `${…}` in it: found, checked, replaced
pipeline    parse and check a document; which steps may begin; how the whole ends
"""
