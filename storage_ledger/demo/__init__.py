"""The demo: the real service and all its neighbours on one machine, with made-up patients, without Docker.

`servers` starts and ends the processes, `dicom_files` makes the DICOM files, `neighbours` plays gateway and descriptor,
`expected_outcomes` follows the ledger and judges, `printing` prints; `run` is the whole of it. `status_service` is the
reference Status Service, for compose and tests, too.
"""
