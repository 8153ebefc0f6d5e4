"""Measuring networks on datasets."""
