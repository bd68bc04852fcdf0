"""Everything that depends on Datasette: its plugin, its routes and how its tables look."""
