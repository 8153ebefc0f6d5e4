"""Classifying videos."""
