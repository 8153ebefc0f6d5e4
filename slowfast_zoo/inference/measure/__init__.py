"""Measuring the speed and cost of networks."""
