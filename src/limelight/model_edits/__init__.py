"""Changed copies of a model, for the checks that ask about one."""
