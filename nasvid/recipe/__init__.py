"""The typed recipe and how it is read; nothing here depends on the machine."""
