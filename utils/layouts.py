"""The datasets the project knows, and the trees each one is published in.

A dataset is a tree of image and alpha folders; `DATASETS` lists the places a split may be in, tried in order.
"""

from dataclasses import dataclass, replace

KINDS = ("im", "gt", "trimap")  # the folders of images, alphas and trimaps in the trees we write ourselves


@dataclass(frozen=True)
class DatasetLayout:
    """The trees a dataset is found in.

    Attributes:
        name: as the papers write it.
        splits: split name to the places it may be in, tried in order. A place is a folder below the dataset's own
            folder, or several joined by " + " that are pooled.
        folders: (images, alphas) below a place, tried in order; "{}" stands for the place.
        trimaps: folders of the trimaps it is published with, below a place, tried in order; "{}" stands for the place.
        aliases: other names the dataset's own folder is known by.
        home: where to get it; empty if nowhere.
        licence: in a few words, with the file that says so.
        exclude: pattern of file names that are no samples.
        note: what a user of the splits should know.
    """

    name: str
    splits: dict[str, tuple[str, ...]]
    folders: tuple[tuple[str, str], ...]
    trimaps: tuple[str, ...] = ()
    home: str = ""
    licence: str = "see home page"
    aliases: tuple[str, ...] = ()
    exclude: str = ""
    note: str = ""


_IM_GT = ("{}/im", "{}/gt")  # DIS5K's own, also how BiRefNet packs every set, and what we write ourselves
_IMAGES_MASKS = ("{}/images", "{}/masks")  # InSPyReNet and PDFNet
_MERGED = ("{}/merged", "{}/alpha_copy")  # composites, as GCA-Matting and the codes after it call them
_TEST_AS_VAL = "no validation set is published: val is the test set, so a best checkpoint is chosen on it"


def _pooled(pattern: str) -> str:
    return " + ".join(pattern.format(i) for i in (1, 2, 3, 4))


_HRS10K_TEST = ("TE-HRS10K", "test")
_HRSOD_TEST = ("TE-HRSOD", "HRSOD_TEsets/TE-HRSOD", "HRSOD_test", "HRSOD-TE", "test")
_UHRSD_TEST = ("UHRSD_TE_2K", "UHRSD_TE", "TE-UHRSD", "HRSOD_TEsets/TE-UHRSD", "UHRSD-TE", "test")
_COD10K_TEST = ("Test", "TestDataset/COD10K", "TE-COD10K", "COD_TEsets/TE-COD10K", "test")
_CUSTOM_SPLITS = {"train": ("train",), "val": ("val",), "test": ("test", ".")}

_LAYOUTS = (
    DatasetLayout(
        name="DIS5K",
        splits={
            "train": ("DIS-TR", "train"),
            "val": ("DIS-VD", "val"),
            "test": (_pooled("DIS-TE{}"), "test", _pooled("test/DIS-TE{}")),
            "DIS-VD": ("DIS-VD", "val"),
            "DIS-TE1": ("DIS-TE1", "test/DIS-TE1"),
            "DIS-TE2": ("DIS-TE2", "test/DIS-TE2"),
            "DIS-TE3": ("DIS-TE3", "test/DIS-TE3"),
            "DIS-TE4": ("DIS-TE4", "test/DIS-TE4"),
        },
        folders=(_IM_GT, _IMAGES_MASKS),
        aliases=("DIS-DATA",),
        home="https://github.com/xuebinqin/DIS",
        licence="non-commercial research (DIS5K-Dataset-Terms-of-Use.pdf at the home page)",
    ),
    DatasetLayout(
        name="HRS10K",
        splits={"train": ("TR-HRS10K", "train"), "val": _HRS10K_TEST, "test": _HRS10K_TEST},
        # The release names the split in every folder, and has a copy reduced to 2560 px beside the originals.
        folders=(
            _IM_GT,
            ("{0}/img_{0}", "{0}/label_{0}"),
            ("{0}/img_{0}_2560max", "{0}/label_{0}_2560max"),
            ("img_{}", "label_{}"),
            ("img_{}_2560max", "label_{}_2560max"),
        ),
        aliases=("HR10K",),
        home="https://github.com/DrowsyMon/RMFormer",
        note=_TEST_AS_VAL,
    ),
    DatasetLayout(
        name="HRSOD",
        splits={
            "train": ("TR-HRSOD", "HRSOD_TRsets/TR-HRSOD", "HRSOD_train", "HRSOD-TR", "train"),
            "val": _HRSOD_TEST,
            "test": _HRSOD_TEST,
        },
        folders=(_IM_GT, _IMAGES_MASKS, ("{}", "{}_mask")),
        aliases=("HRSOD_release",),
        home="https://github.com/yi94code/HRSOD",
        note=_TEST_AS_VAL,
    ),
    DatasetLayout(
        name="UHRSD",
        splits={
            "train": ("UHRSD_TR_2K", "UHRSD_TR", "TR-UHRSD", "HRSOD_TRsets/TR-UHRSD", "UHRSD-TR", "train"),
            "val": _UHRSD_TEST,
            "test": _UHRSD_TEST,
        },
        folders=(("{}/image", "{}/mask"), _IM_GT, _IMAGES_MASKS),
        home="https://github.com/iCVTEAM/PGNet",
        note=_TEST_AS_VAL,
    ),
    DatasetLayout(
        name="COD10K",
        splits={
            "train": ("Train", "TrainDataset", "TrainValDataset", "TR-COD10K", "COD_TRsets/TR-COD10K", "train"),
            "val": _COD10K_TEST,
            "test": _COD10K_TEST,
        },
        folders=(("{}/Image", "{}/GT_Object"), ("{}/Imgs", "{}/GT"), ("{}/Image", "{}/GT"), _IM_GT),
        aliases=("COD10K-v3",),
        home="https://github.com/DengPingFan/SINet",
        exclude="COD10K-NonCAM-*",  # photographs without a camouflaged object; the published test set has 2026 with one
        note=f"{_TEST_AS_VAL}; TrainDataset and TrainValDataset, as SINet publishes them, hold CAMO's images too",
    ),
    DatasetLayout(
        name="P3M-10K",
        splits={
            "train": ("train", "TR-P3M-10k"),
            "val": ("validation/P3M-500-P", "validation1", "TE-P3M-500-P", "val"),
            "test": ("validation/P3M-500-NP", "validation2", "TE-P3M-500-NP", "test"),
            "P3M-500-P": ("validation/P3M-500-P", "validation1", "TE-P3M-500-P", "val"),
            "P3M-500-NP": ("validation/P3M-500-NP", "validation2", "TE-P3M-500-NP", "test"),
        },
        folders=(("{}/blurred_image", "{}/mask"), ("{}/original_image", "{}/mask"), _IM_GT),
        trimaps=("{}/trimap",),
        home="https://github.com/JizhiziLi/P3M",
        licence="release agreement, MIT (README.md at the home page)",
        note="both published sets are called validation: val is P3M-500-P, test is P3M-500-NP",
    ),
    DatasetLayout(
        name="AIM-500",
        splits={"test": (".", "validation", "test")},
        folders=(("{}/original", "{}/mask"), _IM_GT),
        trimaps=("{}/trimap",),
        home="https://github.com/JizhiziLi/AIM",
        licence="release agreement, MIT (core/README.md at the home page)",
        note="a test set only",
    ),
    DatasetLayout(
        name="AM-2K",
        splits={
            "train": ("train", "TR-AM-2k"),
            "val": ("validation", "TE-AM-2k", "val"),
            "test": ("validation", "TE-AM-2k", "val"),
        },
        folders=(("{}/original", "{}/mask"), _IM_GT),
        trimaps=("{}/trimap",),
        home="https://github.com/JizhiziLi/GFM",
        licence="release agreement, MIT (core/README.md at the home page)",
        note="one validation set is published: val and test are the same",
    ),
    DatasetLayout(
        name="PPM-100",
        splits={"test": (".", "test")},
        folders=(("{}/image", "{}/matte"), _IM_GT),
        home="https://github.com/ZHKKKe/PPM",
        licence="mattes CC BY-NC-SA 4.0, photographs Flickr Creative Commons (README.md at the home page)",
        note="a test set only",
    ),
    DatasetLayout(
        name="PhotoMatte85",
        splits={"test": (".", "test")},
        folders=(_IM_GT,),
        home="https://github.com/PeterL1n/BackgroundMattingV2",
        note="published as 85 RGBA foregrounds without backgrounds: compose them first with python -m tools.compose "
        "--test-share 1; scores depend on the backgrounds taken",
    ),
    DatasetLayout(
        name="Composition-1k",
        # Adobe sends the parts in Combined_Dataset/Test_set/Adobe-licensed images; the images are composed there.
        splits={
            "test": (
                ".",
                "Test_set/Adobe-licensed images",
                "Test_set",
                "Combined_Dataset/Test_set/Adobe-licensed images",
                "Combined_Dataset/Test_set",
                "test",
            )
        },
        folders=(_MERGED, _IM_GT),
        trimaps=("{}/trimaps", "{}/trimap"),
        home="https://sites.google.com/view/deepimagematting",
        licence="an agreement with Adobe that forbids passing it on (from the authors at the home page)",
        aliases=("Composition-1k-testset", "Combined_Dataset", "Adobe_Deep_Matting_Dataset", "adobe_composition-1k"),
        note="a test set only: 50 foregrounds on 20 backgrounds each; alpha_copy holds each alpha under its 20 names",
    ),
    DatasetLayout(
        name="UHRIM",
        splits={"test": ("Test", "test", ".")},
        folders=(_MERGED, _IM_GT),
        trimaps=("{}/trimaps", "{}/trimap"),
        home="https://huggingface.co/datasets/dafbgd/UHRIM",
        aliases=("UHR-395",),
        note="a test set only: 1000 composites; their backgrounds are images of DIS5K",
    ),
    DatasetLayout(
        name="Custom",
        splits=_CUSTOM_SPLITS,
        folders=(_IM_GT,),
        trimaps=("{}/trimap",),
        licence="yours",
    ),
    DatasetLayout(
        name="Embedded",
        splits=_CUSTOM_SPLITS,
        folders=(_IM_GT,),
        licence="MIT, as the code that draws it",
    ),
)

# NAME_Flat is what preprocess_dis5k.py makes.
DATASETS: dict[str, DatasetLayout] = {
    layout.name: replace(layout, aliases=(f"{layout.name}_Flat", *layout.aliases)) for layout in _LAYOUTS
}

BENCHMARKS: dict[str, tuple[str, str]] = {
    "DIS-VD": ("DIS5K", "DIS-VD"),
    "DIS-TE1": ("DIS5K", "DIS-TE1"),
    "DIS-TE2": ("DIS5K", "DIS-TE2"),
    "DIS-TE3": ("DIS5K", "DIS-TE3"),
    "DIS-TE4": ("DIS5K", "DIS-TE4"),
    "DIS-TE": ("DIS5K", "test"),
    "HRS10K": ("HRS10K", "test"),
    "HRSOD": ("HRSOD", "test"),
    "UHRSD": ("UHRSD", "test"),
    "COD10K": ("COD10K", "test"),
    "P3M-500-P": ("P3M-10K", "P3M-500-P"),
    "P3M-500-NP": ("P3M-10K", "P3M-500-NP"),
    "AIM-500": ("AIM-500", "test"),
    "AM-2K": ("AM-2K", "test"),
    "PPM-100": ("PPM-100", "test"),
    "PhotoMatte85": ("PhotoMatte85", "test"),
    "Composition-1k": ("Composition-1k", "test"),
    "UHRIM": ("UHRIM", "test"),
    "Custom": ("Custom", "test"),
    "Embedded": ("Embedded", "val"),
}
