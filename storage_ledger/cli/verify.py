"""`storage-ledger verify`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from storage_ledger.operations.verify.report import VerifyReport
    from storage_ledger.operations.verify.selection import GivenNote

SHOWN = 200
_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PARTS = {
    "ledger": ("Ledger", "entries"),
    "mirror": ("Mirror", "entries"),
    "checkpoints": ("Checkpoints", "entries"),
    "files": ("Files", "files"),
    "strangers": ("Archive folders", "folders"),
    "index": ("Index", "entries"),
}
_WORDS = {"pending": "work queue", "strangers": "unexpected files"}


def verify(
    study: Annotated[
        str | None, typer.Option("--study", help="Check only this study: its entries, its files and its folder.", metavar="STUDY_ID")
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            help="Read only this many files, or this share, chosen at random: 500, 5%, 0.05. Check everything else in full.",
            metavar="N|SHARE",
        ),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Read only files not verified for this long, or never: 30d, 12h, 2w, 90min, 45s.", metavar="AGE")
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="Also compare with this checkpoint, kept elsewhere: a file, or - for standard input. Can be repeated.",
            metavar="FILE",
        ),
    ] = None,
    rate: Annotated[float, typer.Option(help="Maximum read rate in MB/s; 0: no limit.", min=0, metavar="MB_S")] = 0.0,
    no_record: Annotated[
        bool,
        typer.Option(
            "--no-record",
            help="Do not append the result to the ledger. LEDGER_PATH must still be writable.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify that the ledger, its mirror, the archive and the index are intact and agree.

    Reads every entry, the mirror, the checkpoints, the work queue, the index, and every archived file and metadata.json, and looks for
    unexpected files in the archive. Repairs nothing. Appends the result as a `verified` entry, even if Ctrl-C ends it early; a second
    Ctrl-C ends it immediately. `serve` may be running. --study, --sample and --older-than cannot be combined.

    Exit code 1 if something is damaged, 2 if nothing is damaged but something could not be checked or recorded.
    """
    import signal
    import threading
    from functools import partial

    from storage_ledger.cli.progress import Step, steps
    from storage_ledger.domain.paths import valid_study_id
    from storage_ledger.operations.verify.report import VerifyProgress
    from storage_ledger.operations.verify.selection import VerifyOptions
    from storage_ledger.settings import Settings
    from storage_ledger.wiring import verify

    if sum(option is not None for option in (study, sample, older_than)) > 1:
        raise typer.BadParameter("--study, --sample and --older-than cannot be combined")
    if study is not None and not valid_study_id(study):
        raise typer.BadParameter("not a valid study_id")
    if study is not None and checkpoint:
        raise typer.BadParameter("--study and --checkpoint cannot be combined: a checkpoint covers all entries")
    notes = tuple(map(_given, checkpoint or ()))
    options = VerifyOptions(study_id=study, sample=_sample(sample), older_than=_since(older_than), rate=rate * 1e6, checkpoints=notes)
    settings = Settings.load()
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(*_: object) -> None:
        stop.set()
        for number, handler in before.items():  # a second signal ends the process immediately
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, end)
    with steps() as show:

        def tell(progress: VerifyProgress) -> None:
            show(Step(*_PARTS[progress.part], progress.done, progress.total, progress.bytes, progress.total_bytes))

        run = partial(verify.verify, settings, options, record=not no_record, stop=stop)
        report = run(on_progress=tell)
    document = _document(report)
    if as_json:
        from storage_ledger.cli.output import print_json

        print_json(document)
    else:
        _print(report, document)
    raise typer.Exit(_exit_code(report, wants_record=not no_record))


def _exit_code(report: VerifyReport, *, wants_record: bool) -> int:
    if report.interrupted:
        return 130
    if report.found.counts:
        return 1
    return 2 if report.found.unchecked_counts or (wants_record and report.not_recorded) else 0


def _document(report: VerifyReport) -> dict[str, Any]:
    counts, found = report.counts, report.found
    return {
        "began": report.began,
        "up_to": report.up_to,
        "parts": report.parts,
        "files": counts.files,
        "intact": counts.intact,
        "damaged": counts.damaged,
        "unchecked_files": counts.unchecked,
        "bytes": counts.bytes,
        "checkpoints": report.checkpoints.count,
        "checkpoints_up_to": report.checkpoints.size,
        "counts": dict(sorted(found.counts.items())),
        "findings": [each.to_json() for each in found.damaged],
        "unchecked": [each.to_json() for each in found.unchecked],
        "recorded": report.recorded,
        "not_recorded": report.not_recorded,
        "interrupted": report.interrupted,
    }


def _print(report: VerifyReport, document: dict[str, Any]) -> None:
    from storage_ledger.cli.output import console, counted, print_advice, print_table, safe, size
    from storage_ledger.domain.error_catalogue.ledger_and_mirror import ENTRIES
    from storage_ledger.domain.error_catalogue.verify import VERIFY

    out = console()
    out.print(f"[bold]Up to[/bold]     position {report.up_to}")
    out.print(
        f"[bold]Checked[/bold]   {', '.join(_WORDS.get(part, part) for part in report.parts) or 'nothing'}"
        + (" (interrupted)" if report.interrupted else "")
    )
    out.print(
        f"[bold]Files[/bold]     {report.counts.files} read, {report.counts.intact} intact ({size(report.counts.bytes)}), "
        f"{report.counts.damaged} damaged, {report.counts.unchecked} could not be checked"
    )
    if agreeing := report.checkpoints.count:
        out.print(f"[bold]Signed[/bold]    {counted(agreeing, 'checkpoint')} agree, the largest of {report.checkpoints.size} entries")
    if report.recorded:
        out.print(f"[bold]Recorded[/bold]  position {', '.join(str(position) for position in report.recorded[-5:])}")
    if report.not_recorded:
        out.print("[bold]Not recorded[/bold]  ", safe(report.not_recorded), sep="")
    for title, listed, counts in (
        ("Damaged", document["findings"], report.found.counts),
        ("Could not be checked", document["unchecked"], report.found.unchecked_counts),
    ):
        if not counts:
            continue
        out.print()
        rows = [(each["code"], each["position"] or "", each["path"] or each["study_id"], each["detail"]) for each in listed[:SHOWN]]
        print_table(out, (title, "Position", "Where", "Details"), rows, wraps="Details")
        if counts.total() > SHOWN:
            out.print(f"… and {counts.total() - SHOWN} more: see --json.")
    if report.found.counts or report.found.unchecked_counts:
        print_advice(out, [*report.found.counts, *report.found.unchecked_counts], VERIFY, ENTRIES)
    elif not report.interrupted:
        out.print("\nAll is intact.")


def _given(name: str) -> GivenNote:
    """Read a checkpoint."""
    import sys

    from storage_ledger.domain.signed_note import MOST_BYTES
    from storage_ledger.operations.verify.selection import GivenNote

    if name == "-":
        return GivenNote("standard input", sys.stdin.buffer.read(MOST_BYTES + 1))
    try:
        with open(name, "rb") as file:
            return GivenNote(name, file.read(MOST_BYTES + 1))
    except OSError as error:
        raise typer.BadParameter(f"--checkpoint: {name} cannot be read: {error.strerror}") from None


def _sample(text: str | None) -> float | None:
    """Return a number of files (at least 1) or a share (below 1); None: all files."""
    if text is None:
        return None
    try:
        share = text.endswith("%") or "." in text
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter("--sample must be a number (500) or a share (5%, 0.05)") from None
    if share and value == 1:
        return None
    if not (0 < value < 1 if share else 1 <= value < 1e12 and value == int(value)):
        raise typer.BadParameter("--sample must be a number of at least 1, or a share of at most 100%")
    return value


def _since(text: str | None) -> str | None:
    from storage_ledger.domain.ids import later, rfc3339
    from storage_ledger.system.clock import utc_now

    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|min|h|d|w)", text)
    if not found:
        raise typer.BadParameter("--older-than must be a number with a unit: 30d, 12h, 2w, 90min, 45s")
    return later(rfc3339(utc_now()), -float(found[1]) * _UNITS_S[found[2]])
