"""Detecting actions of persons in videos."""
