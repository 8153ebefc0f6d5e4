"""Faster convolutions on a CPU, which only optimised networks use."""
