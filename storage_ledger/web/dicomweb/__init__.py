"""DICOMweb (DICOM PS3.18), read-only, at /dicom-web: search (QIDO-RS) and retrieve (WADO-RS). Behind the access check.

`routes` has the addresses. A search goes through `query` (what is asked), `matching` (its SQL), `search` (rows and JSON); a retrieve
through `accept` (which representation), `instances` (which files) and the module of its resource. Everything that parses a DICOM file
runs in the processes of `web/files/pictures`.
"""
