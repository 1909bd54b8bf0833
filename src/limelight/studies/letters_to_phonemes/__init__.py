"""The letters-to-phonemes study: which letters a network's phonemes come from, against words aligned by hand."""

from .agreement import Hits as Hits, Miss as Miss
from .page import write_study as write_study
from .study import METHODS as METHODS, Study as Study, run_study as run_study
from .words import Aligned as Aligned, read_words as read_words
