"""A shell session's pseudo-terminal, its scrollback and the browser's half of it."""
