"""The app: Hermes in a terminal in its owner's browser."""
