"""The base of all other packages: the attribution, names, notes, files, errors."""
