"""Putting the app on Databricks: only deploy.py stands on it."""
