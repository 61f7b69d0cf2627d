"""Language models behind two small Protocols; `open_model` is the one place a name becomes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from mop.errors import ConfigError
from mop.own_parts import is_own, own_part

if TYPE_CHECKING:
    from mop.backends.base import Generator, LanguageModel

__all__ = ["open_model"]


def open_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    memory_gib: float | None = None,
    **options: Any,
) -> LanguageModel | Generator:
    """Return the language model that a name stands for; weights load at first use.

    Parameters
    ----------
    name : str
        ``fake``, an embedded name (``smollm2-135m``), ``hf:ORG/NAME``, the path of a folder, or
        ``openai:MODEL@URL`` for a server; or ``module:attribute`` for one of your own (``docs/plug.md``).
    device, dtype, memory_gib
        For a model on this machine; None lets `mop.backends.local` choose.
    **options
        For a server: what `mop.backends.remote.open_remote` takes, such as ``tokenizer``.

    Returns
    -------
    LanguageModel or Generator
        A server that cannot score is a `mop.backends.base.Generator` only.

    Raises
    ------
    ConfigError
        If the name has none of these forms, or a setting does not fit it.
    """
    if name.startswith("openai:"):
        from mop.backends.remote import open_remote

        return open_remote(name, **options)
    if options:
        raise ConfigError(
            f"the settings {', '.join(sorted(options))} are for a server, but {name!r} is not one; "
            "leave them out, or name a server as openai:MODEL@URL"
        )
    if is_own(name):
        from mop.backends.base import Scorer, as_generator

        part = own_part(name, "the language model")
        return cast("Generator", part) if isinstance(part, Scorer) else as_generator(part)
    if name == "fake":
        from mop.backends.fake import FakeModel

        return FakeModel()
    from mop.backends.local import open_local

    return open_local(name, device=device, dtype=dtype, memory_gib=memory_gib)
