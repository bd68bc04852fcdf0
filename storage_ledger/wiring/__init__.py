"""Settings → wired objects, one module for each command: the only place that knows the concrete engines.

What they share is `stores`, and no more: a look at the ledger does not wait for the imports of what places files.
"""
