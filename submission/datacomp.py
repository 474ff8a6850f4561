"""What DataComp fixes: the sizes of its pools, the tasks of its evaluation, and which of them make up which column."""

from __future__ import annotations

SCALES = {"small": 12_800_000, "medium": 128_000_000, "large": 1_280_000_000, "xlarge": 12_800_000_000}  # samples of a pool

TASKS = {  # key -> name, as evaluate.py writes both
    "vtab/caltech101": "Caltech-101",
    "cifar10": "CIFAR-10",
    "vtab/cifar100": "CIFAR-100",
    "vtab/clevr_count_all": "CLEVR Counts",
    "vtab/clevr_closest_object_distance": "CLEVR Distance",
    "country211": "Country211",
    "vtab/dtd": "Describable Textures",
    "vtab/eurosat": "EuroSAT",
    "fgvc_aircraft": "FGVC Aircraft",
    "food101": "Food-101",
    "gtsrb": "GTSRB",
    "imagenet1k": "ImageNet 1k",
    "imagenet_sketch": "ImageNet Sketch",
    "imagenetv2": "ImageNet v2",
    "imagenet-a": "ImageNet-A",
    "imagenet-o": "ImageNet-O",
    "imagenet-r": "ImageNet-R",
    "vtab/kitti_closest_vehicle_distance": "KITTI Vehicle Distance",
    "mnist": "MNIST",
    "objectnet": "ObjectNet",
    "vtab/flowers": "Oxford Flowers-102",
    "vtab/pets": "Oxford-IIIT Pet",
    "voc2007": "Pascal VOC 2007",
    "vtab/pcam": "PatchCamelyon",
    "renderedsst2": "Rendered SST2",
    "vtab/resisc45": "RESISC45",
    "cars": "Stanford Cars",
    "stl10": "STL-10",
    "sun397": "SUN397",
    "vtab/svhn": "SVHN",
    "retrieval/flickr_1k_test_image_text_retrieval": "Flickr",
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": "MSCOCO",
    "misc/winogavil": "WinoGAViL",
    "wilds/iwildcam": "iWildCam",
    "wilds/camelyon17": "Camelyon17",
    "wilds/fmow": "FMoW",
    "fairness/dollar_street": "Dollar Street",
    "fairness/geode": "GeoDE",
    "fairness/fairface": "FairFace",
    "fairness/utkface": "UTKFace",
}
UNSCORED = {"FairFace", "UTKFace"}  # evaluated, but without a main metric

IMAGENET = "ImageNet 1k"
SHIFTS = ("ImageNet Sketch", "ImageNet v2", "ImageNet-A", "ImageNet-O", "ImageNet-R", "ObjectNet")
RETRIEVAL = ("Flickr", "MSCOCO", "WinoGAViL")
VTAB = (  # DataComp counts SUN397 in, whose key does not say so
    "Caltech-101",
    "CIFAR-100",
    "CLEVR Counts",
    "CLEVR Distance",
    "Describable Textures",
    "EuroSAT",
    "KITTI Vehicle Distance",
    "Oxford Flowers-102",
    "Oxford-IIIT Pet",
    "PatchCamelyon",
    "RESISC45",
    "SVHN",
    "SUN397",
)
