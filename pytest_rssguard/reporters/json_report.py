"""The JSON report, schema 1. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_rssguard.record import SCHEMA, Record
from pytest_rssguard.version import VERSION


def render_json(records: Iterable[Record], environment: Mapping[str, Any]) -> str:
    """Return the report of `records`, made in `environment`."""
    report = {
        "schema": SCHEMA,
        "version": VERSION,
        "environment": dict(environment),
        "tests": [record.to_json() for record in records],
    }
    return json.dumps(report, indent=2) + "\n"
