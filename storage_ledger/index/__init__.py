"""index.db, the read model: what the ledger amounts to, as tables that people search. It may be deleted at any time.

follower    follows the ledger in batches, and has the index rebuilt when it does not fit
writer        checks entries, folds them into rows, and writes these
rows            one study's entries → its rows (columns: where each value is; column_sources: where each comes from)
derived         tables made of `files`: DICOM studies, series, patients, arrivals; search: the words that find a study
fixity, patient_conflicts   what `verified` entries, and files that name different patients, change in `files`
rebuild/    everything again, from the ledger's first entry
schema, file   the tables, and the file that holds them
queries     what the rest of the program asks
"""
