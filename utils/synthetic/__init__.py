"""The data that ships inside the program: procedural composites whose alpha is known exactly."""

from utils.synthetic.composites import Composite, composite, recipe_name
from utils.synthetic.embedded import MANIFEST, VAL_FIRST_INDEX, has_embedded, write_embedded
from utils.synthetic.sheet import contact_sheet

__all__ = [
    "MANIFEST",
    "VAL_FIRST_INDEX",
    "Composite",
    "composite",
    "contact_sheet",
    "has_embedded",
    "recipe_name",
    "write_embedded",
]
