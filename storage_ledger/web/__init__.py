"""The web page: our own pages and Datasette's, on `index` and `ledger`, read-only, behind a login.

server      the `storage-ledger browse` process
auth/       logins, API tokens, slowing down password guesses, the access log
pages/      our own pages: `views` maps addresses to them
files/      downloads, ZIP files, DICOM headers and images, read from the archive
datasette/  everything that depends on Datasette
"""
