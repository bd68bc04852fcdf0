"""Settings → wired objects, one module for each command: the only place that knows the concrete engines.

None imports another's: a look at the ledger does not wait for what places files.
"""
