"""Events of a fit on stderr: a live line on a terminal, JSON lines for batch jobs, remarks for everyone."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any

import click

from streamlr.events import Event, PassDone, Progress, Remark

REDRAW_SECONDS = 0.1


class Reporter:
    """A listener for `streamlr.fit`. Silent with `quiet`; progress only on a terminal."""

    def __init__(self, *, quiet: bool, log_json: bool) -> None:
        self._quiet = quiet
        self._log_json = log_json
        self._live = not quiet and not log_json and sys.stderr is not None and sys.stderr.isatty()
        self._console: Any = None
        self._status: Any = None
        self._drawn = 0.0

    def __enter__(self) -> Reporter:
        if self._live:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
            self._status = self._console.status("reading metadata")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if self._log_json:
            self._write_json(event)
        elif isinstance(event, Remark):
            if self._live:
                self._console.print(event.text, markup=False)
            elif not self._quiet:
                click.echo(event.text, err=True)
        elif self._live and isinstance(event, Progress):
            now = time.monotonic()
            if now - self._drawn > REDRAW_SECONDS:
                self._drawn = now
                self._status.update(_line(event))
        elif self._live and isinstance(event, PassDone):
            self._console.print(
                f"pass {event.number}: log-likelihood {event.log_likelihood:.8g}, "
                f"{event.newton_decrement:.2g} standard errors to go, {event.seconds:.1f} s",
                markup=False,
            )

    def _write_json(self, event: Event) -> None:
        record: dict[str, Any]
        if isinstance(event, Remark):
            record = {"event": "remark", "text": event.text}
        elif isinstance(event, Progress):
            record = {
                "event": "progress",
                "phase": event.phase,
                "pass": event.number,
                "rows_done": event.rows_done,
                "rows_total": event.rows_total,
                "seconds": round(event.seconds, 3),
            }
        else:
            record = {
                "event": "pass",
                "pass": event.number,
                "log_likelihood": event.log_likelihood,
                "newton_decrement": _finite(event.newton_decrement),
                "distance": _finite(event.distance),
                "step": event.step,
                "seconds": round(event.seconds, 3),
                "rows_per_second": round(event.rows_per_second),
            }
        click.echo(json.dumps(record), err=True)


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _line(event: Progress) -> str:
    name = f"pass {event.number}" if event.phase == "pass" else event.phase
    speed = event.rows_done / event.seconds if event.seconds > 0 else 0.0
    text = f"{name}: {event.rows_done:,} rows, {speed / 1e6:.1f} M rows/s"
    if event.rows_total:
        share = event.rows_done / event.rows_total
        left = (event.rows_total - event.rows_done) / speed if speed else 0.0
        text = (
            f"{name}: {share:.0%} of {event.rows_total:,} rows, {speed / 1e6:.1f} M rows/s, {left:.0f} s left"
        )
    return text
