"""A recipe for a pipeline that exists, drafted from its folder."""

from nasvid.draft.write import Wanted, draft

__all__ = ["Wanted", "draft"]
