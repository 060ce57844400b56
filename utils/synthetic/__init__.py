"""The data that ships inside the program: procedural composites whose alpha is known exactly."""

from utils.synthetic.composites import Composite, composite
from utils.synthetic.embedded import VAL_FIRST_INDEX, has_embedded, write_embedded

__all__ = [
    "VAL_FIRST_INDEX",
    "Composite",
    "composite",
    "has_embedded",
    "write_embedded",
]
