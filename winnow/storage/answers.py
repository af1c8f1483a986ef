"""Answers that cost something and would be the same again, by the SHA-256 of what was asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from winnow.errors import UserError
from winnow.storage.atomic import append_line
from winnow.storage.lines import line_of, whole_rows
from winnow.storage.reading import has_file
from winnow.storage.schema import clean


def digest_of(question: Mapping[str, Any]) -> str:
    """SHA-256 of a question, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


class Answers:
    """A file of answers, a line each; one is on the disk before `keep` returns.

    Args:
        path: Read when the first answer is looked for; ``None``: memory alone. Its folder must be
            there when the first is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, str] | None = None

    def find(self, digest: str) -> str | None:
        """The answer to a question, if there is one.

        Raises:
            UserError: a line of the file is damaged.
        """
        return self._read().get(digest)

    def keep(self, digest: str, answer: str) -> None:
        """Keep an answer, for good."""
        answer = clean(answer) or ""
        self._read()[digest] = answer
        if self._path is not None:
            append_line(self._path, line_of({"request": digest, "answer": answer}))

    def _read(self) -> dict[str, str]:
        if self._known is None:
            self._known = {}
            if self._path is not None and has_file(self._path):
                for number, row in whole_rows(self._path):
                    if not all(isinstance(row.get(k), str) for k in ("request", "answer")):
                        problem = f"{self._path} line {number} is damaged"
                        raise UserError("", problem, "fix or remove it")
                    self._known[row["request"]] = row["answer"]
        return self._known
