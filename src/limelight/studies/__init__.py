"""Studies that run from data to a report by one command."""
