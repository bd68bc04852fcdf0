"""A viewer for the studies: OHIF's files below /ohif/, or a link to another viewer."""
