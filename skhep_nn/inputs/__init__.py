"""Validation of inputs, and conversion between containers such as DataFrames and arrays."""
