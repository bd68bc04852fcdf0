"""The pages: Datasette on `index` and `ledger`, read only, behind a login.

`access` says who may enter, `login` slows down who guesses, `gate` lets them in, `looked` notes at what they looked. `catalogue` is
what the pages say, `cells` how a value looks. `content` are the routes to the archive's own: `shelf` finds and opens its files,
`pictures` makes pictures of them, `zips` packs them. `plugin` is everything that is Datasette's, `run` the process.
"""
