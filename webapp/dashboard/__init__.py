"""Hermes's own dashboard: its process, and the way to it below `/hermes/`."""
