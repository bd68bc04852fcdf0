"""The path of an event, from the message to the study's status.

    Redis: pub/sub or a stream
       │
    receive/       source, pubsub, stream: read messages; intake: validates and appends each
       │
    (ledger)       `described` or `rejected`: durable before anything is done and before the message is acknowledged
       │
    place          makes the file and metadata.json durable in the archive; then `archived` or `quarantined`
       │
    replicate      copies new entries to the mirror on the archive volume
       ├───────────────────┐
    remove              notify         status_client: sends the status; then `status-sent`; reads it back later
    removes the upload
                        (index)        follows the ledger independently: see storage_ledger/index

    reconcile/     sweep, verdict: append `described` for files in uploads whose message was lost

No step imports another. Each takes its work from the ledger's work queue (drawn in domain/work_queue). They share:

    worker_pool      claims work items, records their outcomes, pauses a step on a shared cause; worker_threads: its threads
    failures         records failures: of one work item, and of a whole step (an outage)
    wakeups          which event wakes which part: one table
    study_folds      caches the folds of studies in progress; study_metadata: metadata.json from a fold

The promise depends on the order of effects; docs/explanation/how-a-move-survives-a-power-cut.md explains it.
"""
