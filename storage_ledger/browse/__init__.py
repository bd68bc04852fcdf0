"""The pages: our own and Datasette's, on `index` and `ledger`, read only, behind a login.

`access` says who may enter, `login` slows down who guesses, `gate` lets them in, `looked` notes at what they looked. `pages` are
our own: what each asks is in `home`, `studies`, `dicom_study`, `pipeline_study`, `attention` and `ledger`; `names`, `codes`,
`identities`, `chart` put it for people. `catalogue` is what Datasette's pages say, `cells` how a value looks there. `content` are
the routes to the archive's own: `shelf` finds and opens its files, `pictures` makes pictures of them, `zips` packs them. `plugin` and
`routes` are everything that is Datasette's, `run` the process.
"""
