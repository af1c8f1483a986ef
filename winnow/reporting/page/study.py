"""The page of a study: its comparison, packed, in the skeleton and the styles of a run's page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winnow import __version__
from winnow.reporting.page.blocks import pack
from winnow.reporting.page.html import assembled, element
from winnow.reporting.page.view import finite

STUDY_SCRIPTS = ("uPlot", "format", "data", "charts", "figures", "study")


def study_page(result: Mapping[str, Any]) -> str:
    """The page of a comparison (`studies.analysis.compared`): one file that needs no network.

    The same comparison gives the same page. Nothing of it is HTML: scripts show it as text.
    """
    name = str(result["study"]["name"])
    data = element("study", pack({"version": __version__, **finite(dict(result))}))
    return assembled(name, "study", STUDY_SCRIPTS, data)
