"""index.db, the read model: the ledger folded into tables that people search. It can be deleted and rebuilt at any time.

follower          follows the ledger in batches, and rebuilds an index that does not match it
writer            checks entries, folds them into rows and writes the rows
rows              one study's entries → its rows (columns: where each value is in a row; column_sources: where it comes from)
derived_tables    tables derived from `files`: DICOM studies, series, patients, arrivals; search: the words that find a study
fixity, patient_conflicts   set columns of `files` from `verified` entries, and from files that name different patients
rebuild/          builds everything again from the ledger's first entry
schema, database_file       the tables, and the file that holds them; descriptions: what the columns mean
queries           what the rest of the program asks
"""
