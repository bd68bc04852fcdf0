"""What can and cannot get into the logs. Each runs in a process of its own: logging is set up once a process."""

import os
import subprocess
import sys

CANARY = "KANARIENVOGEL^TWEETY"


def logged(code: str, level: str = "DEBUG") -> list[str]:
    """The lines on standard error of a process that configures logs and runs this; the canary is `CANARY` in it."""
    start = (
        "import logging, warnings\nfrom storage_ledger.system import logs\n"
        f"CANARY = {CANARY!r}\nlogs.configure({level!r}, environment='test')\n"
    )
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_line_is_an_event_with_its_fields():
    [line] = logged("logs.get().warning('projection.failed', position=41, code='no-space', attempt=2)")
    assert "event=projection.failed" in line
    assert "position=41" in line
    assert "code=no-space" in line
    assert "level=warning" in line
    assert "environment=test" in line


def test_a_field_that_is_not_on_the_list_is_dropped_and_counted():
    [line] = logged("logs.get().info('x', patient_name=CANARY, payload=CANARY, detail=CANARY, position=1)")
    assert CANARY not in line
    assert "dropped=3" in line
    assert "position=1" in line


def test_an_exception_is_a_dropped_field_too():
    lines = logged("try:\n    raise ValueError(CANARY)\nexcept ValueError:\n    logs.get().exception('x', code='c')")
    assert CANARY not in "".join(lines)
    assert len(lines) == 1


def test_only_the_type_of_a_complex_value_is_logged():
    [line] = logged("logs.get().info('x', reason=[CANARY], code=ValueError(CANARY), kind={'a': CANARY})")
    assert CANARY not in line
    assert "reason=list" in line
    assert "code=ValueError" in line


def test_fields_bound_to_a_context_pass_the_allow_list_as_well():
    [line] = logged("import structlog\nstructlog.contextvars.bind_contextvars(patient=CANARY, thread='t')\nlogs.get().info('x')")
    assert CANARY not in line
    assert "thread=t" in line


def test_a_foreign_logger_says_its_name_and_level_only():
    names = ["redis", "httpx", "pydicom", "uvicorn.error", "sqlalchemy.engine", "unheard.of"]
    lines = logged(
        f"for name in {names}:\n"
        "    log = logging.getLogger(name)\n"
        "    log.error('failed on %s', CANARY)\n"
        "    try:\n        raise KeyError(CANARY)\n"
        "    except KeyError:\n        log.exception(CANARY, extra={'patient': CANARY})"
    )
    assert CANARY not in "".join(lines)
    assert [line.partition("logger=")[2].split()[0] for line in lines] == [name for name in names for _ in range(2)]
    assert all("error_type=KeyError" in line for line in lines[1::2])


def test_a_level_that_only_a_foreign_logger_knows_breaks_nothing():
    lines = logged("for level in (5, 25, 35, 45, 60):\n    logging.getLogger('redis').log(level, CANARY)")
    assert CANARY not in "".join(lines)
    assert len(lines) == 3


def test_a_record_whose_text_cannot_be_made_breaks_nothing():
    [line] = logged("logging.getLogger('redis').error('%d %d', CANARY)")
    assert CANARY not in line


def test_warnings_say_their_category_only():
    lines = logged("warnings.simplefilter('always')\nwarnings.warn(CANARY, UserWarning)")
    assert CANARY not in "".join(lines)
    assert any("UserWarning" in line for line in lines)


def test_the_level_holds_for_our_lines_and_for_foreign_ones():
    lines = logged("logs.get().info('a')\nlogs.get().warning('b')\nlogging.getLogger('x').warning('c')\nlogs.get().error('d')", "ERROR")
    assert len(lines) == 1
    assert "event=d" in lines[0]


def test_where_names_places_and_no_text():
    [line] = logged("try:\n    int(CANARY)\nexcept ValueError as error:\n    logs.get().error('x', frames_at=logs.where(error))")
    assert CANARY not in line
    assert "<module>" in line


def test_a_log_without_a_reader_blocks_nothing_and_later_reports_the_lines_lost():
    ours, theirs = os.pipe()
    code = (
        "from storage_ledger.system import logs\nlogs.configure('INFO')\nfor n in range(5000):\n    logs.get().info('x', position=n)\n"
        "print('went on', flush=True)\ninput()\nlogs.get().info('y')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "went on\n"
        before = os.read(ours, 1 << 20)  # all that is in the pipe
        process.stdin.write("\n")
        process.stdin.flush()
        [line] = os.read(ours, 1 << 20).decode().splitlines()
        os.close(ours)
        assert process.wait() == 0
    written = before.decode().splitlines()
    assert [f"position={n}" in each for n, each in enumerate(written)] == [True] * len(written)
    assert f"lost={5000 - len(written)}" in line
