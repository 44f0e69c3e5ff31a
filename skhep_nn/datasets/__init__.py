"""Loaders, downloads and simulators, one module a domain."""
