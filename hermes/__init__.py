"""Hermes Agent on Databricks: installed, and pointed at a route that serves its model."""
