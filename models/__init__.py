"""The networks. They know torch and timm, and nothing of configuration, files or the command line."""

from models.patches import Crops
from models.refiner import Refiner
from models.routing import Routing
from models.student import BACKBONES, PretrainedWeightsError, Student
from models.teacher import FeatureAlignment, MaskDecoder, MaskTeacher
from models.tsr_matte import MattingOutput, TSRMatte, TwoStages

__all__ = [
    "BACKBONES",
    "Crops",
    "FeatureAlignment",
    "MaskDecoder",
    "MaskTeacher",
    "MattingOutput",
    "PretrainedWeightsError",
    "Refiner",
    "Routing",
    "Student",
    "TSRMatte",
    "TwoStages",
]
