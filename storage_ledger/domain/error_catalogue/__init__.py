"""What each error code means, what happens meanwhile, and what to do: the one place for these texts, as data.

A file holds a section of docs/reference/error-codes.md, or a few that belong together:

    rejected_messages.py     a message that is no `described` event
    quarantined_files.py     a file that waits for a person
    retries.py               a work item that failed and is retried
    outages.py               a cause that stops a step for all studies
    uploads_search.py        why a search of uploads stopped short; files there that nothing explains
    readiness.py             what /readyz says; why Redis is not heard
    attention.py             what `storage-ledger status` lists
    ledger_and_mirror.py     ledger.db, its mirror, single entries
    verify.py  replay.py  backups.py  adopt.py  settings_and_locks.py     what these commands say
    flags_and_headers.py     flags of archived files; headers that could not be read
    pictures.py              why the web page has no picture or file

`explanation.py` has the types, `catalogue.py` the list of all sections and how to find a code. Made from this: the reference
page (scripts/reference), the web pages, the advice of the commands, and `storage-ledger explain CODE`.

A code that is raised or recorded must stand here, and nothing may stand here that cannot occur: tests/unit/domain/test_error_catalogue.py.
"""
