"""Graphs of concepts: triples in files, their relations, and vectors for both."""
