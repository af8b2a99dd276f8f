"""The book's own package: its records, data, models, studies and figures, on top of `pdelens`."""

from .keeping import kept
from .pretrained._torchvision import declare_missing_operators
from .records import finish_chapter, quote, record, recorded, start_chapter

__all__ = ["finish_chapter", "kept", "quote", "record", "recorded", "start_chapter"]

# Before anything imports transformers, which looks for torchvision.
declare_missing_operators()
