"""The pages: our own and Datasette's, on `index` and `ledger`, read only, behind a login.

`access` says who may enter, `gate` lets them in. `pages` are our own: what each asks is in `home`, `studies`, `dicom_study`,
`pipeline_study`, `attention` and `ledger`; `names`, `codes`, `chart` put it for people. `catalogue` is what Datasette's pages
say, `cells` how a value looks there. `plugin` and `routes` are everything that is Datasette's, `run` the process.
"""
