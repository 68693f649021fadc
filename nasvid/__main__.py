"""Runs the command line: `python -m nasvid` is the same as `nasvid`."""

from nasvid.cli.entry import nasvid

if __name__ == "__main__":
    nasvid()
