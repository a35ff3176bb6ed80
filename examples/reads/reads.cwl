#!/usr/bin/env cwl-runner
cwlVersion: v1.2
class: Workflow
label: Quality and GC of sequencing reads
doc: >
  Trims the reads of every sample, measures them (both steps scattered over the samples, which run in parallel), measures
  the reference beside that, and merges everything into a table, a JSON document and a page with plots.

requirements:
  ScatterFeatureRequirement: {}

inputs:
  samples:
    type: File[]
    doc: One FASTQ file a sample; the file's name is the sample's
  reference:
    type: File
    doc: The FASTA reference that the samples are compared with
  min_quality:
    type: int
    default: 20
    doc: Bases at the 3' end below this Phred score are cut off
  min_length:
    type: int
    default: 40
    doc: Reads that are shorter after trimming are left out
  window:
    type: int
    default: 75
    doc: Windows of the reference have the length of a read
  min_mean_length:
    type: float
    default: 65
    doc: A sample whose reads are shorter on average is reported
  max_gc_shift:
    type: float
    default: 4
    doc: A sample whose GC percentage differs by more from the reference is reported

steps:
  trim:
    run: tools/trim.cwl
    scatter: reads
    in:
      reads: samples
      min_quality: min_quality
      min_length: min_length
    out: [trimmed]

  measure:
    run: tools/measure.cwl
    scatter: [reads, sample]
    scatterMethod: dotproduct
    in:
      reads: trim/trimmed
      sample: samples
    out: [measurement]

  reference_gc:
    run: tools/reference_gc.cwl
    in:
      reference: reference
      window: window
    out: [measurement]

  report:
    run: tools/report.cwl
    in:
      measurements: measure/measurement
      reference: reference_gc/measurement
      min_mean_length: min_mean_length
      max_gc_shift: max_gc_shift
    out: [table, summary, page]

outputs:
  table:
    type: File
    outputSource: report/table
  summary:
    type: File
    outputSource: report/summary
  page:
    type: File
    outputSource: report/page
  trimmed:
    type: File[]
    outputSource: trim/trimmed
