"""The data that ships inside the program: procedural composites whose alpha is known exactly."""

from utils.synthetic.composites import Composite, composite, recipe_name
from utils.synthetic.embedded import MANIFEST, VAL_FIRST_INDEX, has_embedded, write_embedded

__all__ = [
    "MANIFEST",
    "VAL_FIRST_INDEX",
    "Composite",
    "composite",
    "has_embedded",
    "recipe_name",
    "write_embedded",
]
