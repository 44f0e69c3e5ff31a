"""Helpers for all other wings, without physics and without networks."""
