"""What outlives a restart: selected, saved to a Unity Catalog volume, and brought back."""
