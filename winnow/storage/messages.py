"""Conversations as files hold them, in any of the usual shapes -> messages of one shape.

A message is a dict with `role`, `content` (a text) and whatever else its source has: `tool_calls`,
`name`, `tool_call_id`. What a chat template or a server does with these is for them to say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""Roles of ShareGPT, whose messages are {from, value}."""


class TurnError(ValueError):
    """What is wrong with a conversation, by turn (counted from 1) and key, and what to do."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


def conversation(turns: Sequence[object], *, padded: bool = False) -> tuple[Message, ...]:
    """The messages of a conversation, each with `role`, a text as `content`, and its other keys.

    `from` and `value` (ShareGPT) become `role` and `content`; text parts are joined by line breaks,
    as vLLM and llama.cpp join them; a message with `tool_calls` may lack a content, which is empty
    then; `arguments` of a tool call that are JSON in a text become the object, as templates want
    them. A key whose value is null is as good as absent.

    Args:
        padded: Whether a null may stand for a key that other rows have, as in Parquet; nulls within
            tool calls are left out then.

    Raises:
        TurnError: a turn that is no such message.
    """
    return tuple(_message(number, turn, padded) for number, turn in enumerate(turns, start=1))


def is_missing(value: object) -> bool:
    """Whether a column holds nothing: null, or NaN, as pandas writes it among numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def tools_of(data: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The tools that a conversation may call: what the row that it is in has as `tools`.

    A list of objects, or the JSON of one; nulls in them are keys that other rows have.

    Raises:
        TurnError: it is neither.
    """
    given = data.get("tools")
    if is_missing(given) or given == "":
        return None
    tools = _read(given)
    if not isinstance(tools, list | tuple) or not all(isinstance(t, Mapping) for t in tools):
        problem = f"has a conversation, and {given!r:.60} in its column 'tools'"
        raise TurnError(problem, "it must be a list of tools as objects, or its JSON; or rename it")
    return [_without_nulls(tool) for tool in tools] or None


def for_server(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages in OpenAI's protocol, where the arguments of a tool call are JSON in a text."""
    return [{**m, **_calls(m, _written)} if "tool_calls" in m else dict(m) for m in messages]


def spoken(message: Message) -> str:
    """All that a message says, its tool calls as JSON, for comparing conversations."""
    calls = message.get("tool_calls")
    said = json.dumps(calls, sort_keys=True, default=str) if calls else ""
    return f"{message['content']}{said}"


def _message(number: int, turn: object, padded: bool) -> Message:
    this = f"has a turn {number}"
    if not isinstance(turn, Mapping):
        raise TurnError(
            f"{this} that is {turn!r:.60}, not an object with the keys 'role' and 'content'"
        )
    own = {str(key): value for key, value in turn.items() if value is not None}
    made: dict[str, Any] = {"role": _role(this, own), "content": ""}
    calls = own.pop("tool_calls", None)
    if calls:
        made["tool_calls"] = _tool_calls(this, calls, padded)
    made["content"] = _content(this, own, turn, may_lack=bool(calls))
    return made | own


def _role(this: str, own: dict[str, Any]) -> str:
    """The role, taken out of the other keys."""
    key = _one_of(this, own, "role", "from") or "role"
    if key not in own:
        raise TurnError(f"{this} without the key 'role'")
    role = own.pop(key)
    if not isinstance(role, str) or not role:
        raise TurnError(f"{this} whose key {key!r} is {role!r:.60}, not a text")
    if key == "role":
        return role
    if role not in _SPEAKERS:
        raise TurnError(
            f"{this} whose key 'from' is {role!r:.60}", "use human, gpt, system or tool"
        )
    return _SPEAKERS[role]


def _content(this: str, own: dict[str, Any], turn: Mapping[Any, Any], *, may_lack: bool) -> str:
    """The text, taken out of the other keys."""
    key = _one_of(this, own, "content", "value")
    if key is None:
        if may_lack:
            return ""
        null = next((name for name in ("content", "value") if name in turn), None)
        raise TurnError(
            f"{this} without the key 'content'"
            if null is None
            else f"{this} whose key {null!r} is null, which only tool_calls make up for"
        )
    value = own.pop(key)
    if isinstance(value, list | tuple):
        return "\n".join(_part(f"{this} whose key {key!r}", part) for part in value)
    if not isinstance(value, str):
        raise TurnError(f"{this} whose key {key!r} is {value!r:.60}, not a text")
    return value


def _part(this: str, part: object) -> str:
    given = part if isinstance(part, Mapping) else {}
    own = {str(key): value for key, value in given.items() if value is not None}
    text = own.pop("text", None)
    kind = own.pop("type", "text")
    alone = "give text alone, or leave the row out"
    if kind != "text":
        raise TurnError(f"{this} has a part of type {kind!r:.40}", alone)
    if not isinstance(text, str):
        raise TurnError(f"{this} has a part {part!r:.60}, which is no text", alone)
    if own:
        raise TurnError(f"{this} has a part with the key {next(iter(own))!r:.40}", "leave it out")
    return text


def _one_of(this: str, own: Mapping[str, Any], ours: str, theirs: str) -> str | None:
    """Which of two keys of one meaning is there."""
    if ours in own and theirs in own:
        raise TurnError(f"{this} with both keys {ours!r} and {theirs!r}", "leave one out")
    return ours if ours in own else theirs if theirs in own else None


def _tool_calls(this: str, calls: object, padded: bool) -> list[dict[str, Any]]:
    given = _read(calls) if isinstance(calls, str) else calls
    if not isinstance(given, list | tuple) or not all(isinstance(c, Mapping) for c in given):
        raise TurnError(f"{this} whose key 'tool_calls' is {calls!r:.60}, not a list of objects")
    kept = [_without_nulls(call) for call in given] if padded else given
    made: list[dict[str, Any]] = _calls({"tool_calls": kept}, _read)["tool_calls"]
    return made


def _calls(message: Message, change: Any) -> dict[str, Any]:
    """The tool calls of a message, with the arguments of each changed."""
    made = []
    for call in message["tool_calls"]:
        function = call.get("function")
        if isinstance(function, Mapping) and "arguments" in function:
            call = {**call, "function": {**function, "arguments": change(function["arguments"])}}
        made.append(dict(call))
    return {"tool_calls": made}


def _read(value: object) -> object:
    """The object or list that a text is the JSON of; else the value as it is."""
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return read if isinstance(read, dict | list) else value


def _written(value: object) -> object:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _without_nulls(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(part) for part in value]
    return value
