"""Changed copies of a model, for the checks that compare with one."""
