"""The base of every kind of plug-in: a typed config."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, get_args

from typing_extensions import TypeVar

from nasvid.plugins import config as settings
from nasvid.plugins.needs import Need

C = TypeVar("C", bound=settings.Config, default=settings.Config, covariant=True)


class Plugin(Generic[C]):
    """A replaceable part of nasvid with a typed config.

    `class Mine(Sampler[MineConfig])` names the config's class: the type checker knows
    `self.config`, recipes are validated against it, and its docstrings are the documentation.
    `class Mine(Sampler)` has no options.
    """

    Config: ClassVar[type[settings.Config]] = settings.Config
    """The class of the config; set from the type argument."""
    needs: ClassVar[tuple[Need, ...]] = ()
    """Packages that nasvid itself does not need. Import them where they are used, not at the top of
    the module: `nasvid doctor` imports it to read this."""

    def __init__(self, config: C) -> None:
        self.config = config

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, settings.Config):
                    cls.Config = argument

    @property
    def identity(self) -> str:
        """A text that differs whenever the results would: the key in caches, kept with results."""
        return f"{type(self).__name__}:{self.config.model_dump_json()}"

    def check_ready(self) -> None:
        """Check before any work, loading nothing, that its files and what it runs on are there.

        Raises:
            UserError: they are not; `needs` is checked elsewhere.
        """
