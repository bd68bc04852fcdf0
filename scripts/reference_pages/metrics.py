"""metrics.md, from storage_ledger/system/metrics.py."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics import MetricWrapperBase

from storage_ledger.system.metrics import Metrics

HEAD = """\
# Metrics

<!-- scripts/reference writes this page from storage_ledger/system/metrics.py: edit it there. -->

`/metrics` shows these; names and labels are stable.
How to scrape, query and alert on them: [metrics and alerts](../how-to/read-metrics.md).

Counters start at 0 with each start of the service: use `rate` or `increase`.
A series appears with its first event: an alert on a counter with labels must work without an initial 0.
Each counter and histogram also has a `_created` gauge (start time, seconds since 1970).
`code` and `reason` are [error codes](error-codes.md), as is an `outcome` not explained here; `kind` is an [entry kind](entry-kinds.md).

In brackets: type and labels.

"""


def page() -> str:
    """Return the page: one line for each metric, with its help text."""
    return HEAD + "\n".join([*_lines(), ""])


def _lines() -> Iterator[str]:
    for instrument in vars(Metrics()).values():
        if isinstance(instrument, MetricWrapperBase):
            (metric,) = instrument.describe()
            name = metric.name + ("_total" if metric.type == "counter" else "")
            labels = ", ".join(f"`{label}`" for label in instrument._labelnames)  # noqa: SLF001 - the client shows them nowhere else
            series = (
                f" Series: {', '.join(f'`{name}_{part}`' for part in ('bucket', 'sum', 'count'))}." if metric.type == "histogram" else ""
            )
            kind = f"{metric.type}; {labels}" if labels else metric.type
            yield f"- `{name}` ({kind}): {metric.documentation}{series}"
