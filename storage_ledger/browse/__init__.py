"""The pages: Datasette on `index` and `ledger`, read only, behind a login.

`access` says who may enter, `gate` lets them in, `catalogue` is what the pages say, `cells` how a value looks, `plugin`
everything that is Datasette's, `run` the process.
"""
