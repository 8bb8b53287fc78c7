"""Installs Hermes Agent and points it at a Databricks route that serves its model; needs only requests and PyYAML."""
