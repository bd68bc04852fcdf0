"""The web page: our own pages and Datasette's, on `index` and `ledger`, read only, behind a login.

server      the process
auth/       who may enter and what a machine may see; slows down guessing; logs who looked at what
pages/      our pages: `views` maps an address to one of them
files/      downloads, ZIP files, DICOM headers and pictures, straight from the archive
datasette/  everything that knows Datasette
"""
