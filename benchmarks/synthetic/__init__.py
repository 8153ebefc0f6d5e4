"""Generators of synthetic videos, with exact labels."""
