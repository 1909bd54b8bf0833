"""What everything stands on: the attribution, files, errors."""
