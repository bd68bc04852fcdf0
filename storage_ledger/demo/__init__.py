"""The demo: the real service and its neighbours on one machine, with made-up patients, without Docker.

`servers` starts and stops the processes, `dicom_files` creates the DICOM files, `neighbours` simulates gateway and descriptor,
`expected_outcomes` compares the ledger with what should happen, `printing` prints, and `run` puts them together.
`status_service` is the reference Status Service, also for compose and tests.
"""
