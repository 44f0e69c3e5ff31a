"""Validation of inputs: turns containers such as DataFrames into arrays, and arrays back into them."""
