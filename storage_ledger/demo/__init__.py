"""The demo: the real service and all its neighbours on one machine, with made-up patients, without Docker.

`servers` starts and ends the processes, `studies` makes the DICOM files, `neighbours` plays gateway and descriptor,
`watch` follows the ledger and judges, `show` prints; `run` is the whole of it.
"""
