"""The typed recipe and how it is read; nothing here knows a machine."""
