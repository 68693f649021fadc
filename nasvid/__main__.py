"""`python -m nasvid` is `nasvid`."""

from nasvid.cli.entry import nasvid

if __name__ == "__main__":
    nasvid()
