"""What goes through rank 0 in a step: bytes, and seconds of one of its cores.

The constants are what `bench/scale.py traffic` (with simulated servers) and `weights` measured of
this code, on two cores of a server.
"""

from __future__ import annotations

from dataclasses import dataclass

from winnow.training.scale.step import Lengths, Spread, Step

REQUEST, REQUEST_TOKEN = 223, 7.3
"""Bytes of a request for one completion, and of each token of its prompt."""
ANSWER_TOKEN = 134.0
"""Bytes of a token in an answer: its id, twice, and its log-prob, as JSON; of vLLM 0.32 135."""
READ_TOKEN = 3.4e-6
"""Seconds to read a token of an answer, check it and put it into a group."""
GROUP_TOKEN = 20.5
"""Bytes of a token in the message to the ranks: id, log-prob, and where it ends in the text."""
RATIO_TOKEN = 9.0
"""Bytes of a token in the statistics that come back."""
WRITE_BYTE = 1 / 0.6e9
"""Seconds to write a byte of the weights, hash it and wait until it is there."""


@dataclass(frozen=True)
class Traffic:
    """Of a step, in bytes; seconds are rank 0's own.

    Attributes:
        asked, answered: To and from the servers; 0 where the ranks sample.
        handed: To the ranks that learn: each of them gets all groups of every mini-batch.
        returned: Statistics, from all ranks to all.
        written: Weights, once an update that is followed by sampling, so once a step.
        fetched: Weights that servers read, together.
        reading: Seconds to read answers; while servers sample, one thread at a time.
        writing: Seconds to write weights, while all wait.
    """

    asked: float
    answered: float
    handed: float
    returned: float
    written: float
    fetched: float
    reading: float
    writing: float


def traffic(step: Step, lengths: Lengths, spread: Spread, version: int) -> Traffic:
    """What rank 0 sends and gets in a step.

    Args:
        version: Bytes of the weights that servers are sent: all, or adapters.
    """
    tokens = step.tokens(lengths)
    served, others = bool(spread.servers), spread.ranks - 1
    weights = version * served
    message = GROUP_TOKEN * tokens * step.passes
    return Traffic(
        asked=served * step.samples * (REQUEST + REQUEST_TOKEN * lengths.prompt),
        answered=served * ANSWER_TOKEN * tokens,
        handed=message * others,
        returned=RATIO_TOKEN * tokens * step.passes * (1 - 1 / spread.ranks),
        written=weights,
        fetched=weights * spread.servers,
        reading=served * READ_TOKEN * tokens,
        writing=WRITE_BYTE * weights,
    )
