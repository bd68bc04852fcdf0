"""What is Datasette's: its plugin, its routes and how its tables look. Nothing else in the package knows Datasette."""
