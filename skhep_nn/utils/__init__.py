"""Helpers of all other wings, without physics and without networks."""
