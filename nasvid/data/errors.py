"""Errors of video data: of a whole data set, or of one clip."""

from __future__ import annotations

from nasvid.errors import UserError


class DataError(UserError):
    """Video data is missing or unusable; the message says which data, and what to do."""


class ClipError(ValueError):
    """A clip cannot be used; `reason` is one of a few short phrases, so that it can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
