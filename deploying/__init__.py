"""Putting the app on Databricks: only deploy.py imports it."""
