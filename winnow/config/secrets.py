"""Settings that may hold a secret by mistake. What is wrong with one is said without its value."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_PART = 15  # of a name, between two underscores, where it looks random

NOT_A_NAME = (
    "must be the name of an environment variable, not the key itself",
    "put the key in a variable with a name like MY_SERVER_KEY, and give that name",
)
"""Problem and remedy of a name that is none."""

NOT_BARE = (
    "it holds a password or a query ('@', '?' or '#')",
    "leave that out, and name the key's environment variable in engine.key_env",
)
"""Problem and remedy of an address with more than a host and a path."""


def names_a_variable(value: str) -> bool:
    """Whether it is an environment variable's name, and not a key given in place of the name.

    Many keys could be names (hf_..., gsk_..., hexadecimal digits). Their parts are long and mix
    digits, capitals and small letters, as the parts of names do not.
    """
    return bool(_NAME.fullmatch(value)) and not any(map(_is_random, value.split("_")))


def is_bare(url: str) -> bool:
    """Whether an address holds nothing that could be a password or a key."""
    return not set(url) & set("@?#")


def _is_random(part: str) -> bool:
    kinds = [re.search(kind, part) is not None for kind in ("[0-9]", "[A-Z]", "[a-z]")]
    return len(part) > _LONGEST_PART and sum(kinds) > 1
