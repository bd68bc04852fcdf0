"""The way of one event, from the message to the study's status.

    Redis: pub/sub or a stream
       │
    receive/       source and pubsub, stream: messages come in; intake: each is judged, and appended
       │
    (ledger)       `described`, or `rejected`: durable before anything is done, and before it is acknowledged
       │
    place          the file and metadata.json, durably in the archive; then `archived`, or `quarantined`
       │
    replicate      the new entries, in the mirror on the archive volume
       ├───────────────────┐
    remove              notify         status_client: the status, to the Status Service; `status-sent`; read back later
    the upload goes
                        (index)        follows the ledger by itself: see storage_ledger/index

    reconcile/     sweep and verdict: a file that waits in uploads though its message was lost is `described` here

The steps know nothing of each other. Each finds its work in the ledger's work queue (domain/work_queue draws it), and they share:

    worker_pool      claims work items, records what came of them, pauses a step for a shared cause; worker_threads: its threads
    failures         what goes wrong, as entries: with one work item, and with a whole step (an outage)
    wakeups          who is woken by what: one table
    study_folds      the folds of the studies in hand; study_metadata: metadata.json from a fold

The order of effects is what the promise rests on; docs/explanation/how-a-move-survives-a-power-cut.md says why.
"""
