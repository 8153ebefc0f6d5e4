"""Faster copies of networks for inference."""
