"""The catalogue of error codes: what each code means, what happens meanwhile, and what to do.

A module holds a section of docs/reference/error-codes.md, or a few that belong together:

    rejected_messages.py     messages that are not a valid `described` event
    quarantined_files.py     files that need manual review
    retries.py               failures of one work item, which is retried
    outages.py               causes that stop a step for all studies
    reconcile.py             reconciliation passes that stopped short; unexplained files in uploads
    readiness.py             what /readyz reports; why the connection to Redis fails
    attention.py             what `storage-ledger status` lists
    ledger_and_mirror.py     ledger.db, its mirror, single entries
    verify.py  replay.py  backups.py  checkpoints.py  checkpoints_outside.py  adopt.py  settings_and_locks.py     what these commands report
    flags_and_headers.py     flags of archived files; headers that could not be read
    pictures.py              why the web page cannot show an image or file

`explanation.py` has the types and the instructions that several sections share, `catalogue.py` the list of all sections.
The reference page and the runbook (scripts/reference), the web pages, the commands' advice and `storage-ledger explain CODE` all
take their texts from here.

tests/unit/domain/test_error_catalogue.py fails if a code is missing here or cannot occur.
"""
