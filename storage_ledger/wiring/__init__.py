"""Builds and wires the objects of each command from the settings, one module per command. Only this package knows the concrete engines.

The modules share only `stores`, so that a command that reads the ledger does not import what places files.
"""
