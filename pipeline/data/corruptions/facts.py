"""What is fixed about CIFAR-10-C, CIFAR-100-C and the -P sequences: names, groups, shapes, digests. Free of libraries.

Sources: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019, and the authors' releases. The MD5 sums of the C files are those that public loaders list; there are none of
the P files.
"""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = (1, 2, 3, 4, 5)

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
"""All 19 corruptions in the canonical order."""

GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
CORRUPTIONS = tuple(GROUP_OF)
BENCHMARK_CORRUPTIONS = CORRUPTIONS[:15]
"""The corruptions that every reported mean is over; the four extras are for choosing settings."""

# fmt: off
DETERMINISTIC = (
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate",
)
"""Corruptions that draw nothing: their official bytes can be written again."""

PERTURBATIONS = (
    "gaussian_noise", "gaussian_noise_2", "gaussian_noise_3", "shot_noise", "shot_noise_2", "shot_noise_3",
    "motion_blur", "zoom_blur", "snow", "brightness", "translate", "rotate", "tilt", "scale",
    "speckle_noise", "speckle_noise_2", "speckle_noise_3", "gaussian_blur", "spatter", "shear",
)
"""The 20 perturbations; `_2` and `_3` are harder noise."""

BENCHMARK_PERTURBATIONS = (
    "gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "snow", "brightness", "translate", "rotate", "tilt",
    "scale",
)
"""The ten of the paper. The authors' CIFAR script evaluates spatter in place of snow."""
# fmt: on

FRAMES = dict.fromkeys(PERTURBATIONS, 31) | {"motion_blur": 21, "translate": 16}
"""Frames per sequence of each perturbation."""


def is_noise(perturbation: str) -> bool:
    """Whether the frames of a sequence are independent draws, to be compared with the clean first one."""
    return "noise" in perturbation


@dataclass(frozen=True)
class Release:
    """One official folder of corrupted images."""

    folder: str
    address: str
    archive_bytes: int
    archive_md5: str
    files: dict[str, str]
    """File name without '.npy' -> MD5; 'labels' is one of them."""
    images: int = 10_000
    """Test images; a file holds five times as many."""
    size: int = 32

    @property
    def archive(self) -> str:
        """File name of the archive that holds the folder."""
        return f"{self.folder}.tar"

    @property
    def sequence_folder(self) -> str:
        """Name of the folder of sequences: shared by hand, without digests and labels (the test labels apply)."""
        return f"{self.folder.removesuffix('C')}P"


MD5 = {
    "labels": ("c439b113295ed5254878798ffe28fd54", "bb4026e9ce52996b95f439544568cdb2"),
    "gaussian_noise": ("ecaf8b9a2399ffeda7680934c33405fd", "ecc4d366eac432bdf25c024086f5e97d"),
    "shot_noise": ("3a7239bb118894f013d9bf1984be7f11", "b0a1fa6e1e465a747c1b204b1914048a"),
    "impulse_noise": ("2090e01c83519ec51427e65116af6b1a", "3b3c210ddfa0b5cb918ff4537a429fef"),
    "defocus_blur": ("7d1322666342a0702b1957e92f6254bc", "d923e3d9c585a27f0956e2f2ad832564"),
    "glass_blur": ("7361fb4019269e02dbf6925f083e8629", "0bf384f38e5ccbf8dd479d9059b913e1"),
    "motion_blur": ("fffa5f852ff7ad299cfe8a7643f090f4", "732a7e2e54152ff97c742d4c388c5516"),
    "zoom_blur": ("6ea8e63f1c5cdee1517533840641641b", "0204613400c034a81c4830d5df81cb82"),
    "snow": ("bb238de8555123da9c282dea23bd6e55", "0237be164583af146b7b144e73b43465"),
    "frost": ("31f6ab3bce1d9934abfb0cc13656f141", "3a39c6823bdfaa0bf8b12fe7004b8117"),
    "fog": ("7b397314b5670f825465fbcd1f6e9ccd", "4efc7ebd5e82b028bdbe13048e3ea564"),
    "brightness": ("0a81ef75e0b523c3383219c330a85d48", "f22d7195aecd6abb541e27fca230c171"),
    "contrast": ("3c8262171c51307f916c30a3308235a8", "322bb385f1d05154ee197ca16535f71e"),
    "elastic_transform": ("9421657c6cd452429cf6ce96cc412b5f", "a0792bd6581f6810878be71acedfc65a"),
    "pixelate": ("0f14f7e2db14288304e1de10df16832f", "96c00c60f144539e14cffb02ddbd0640"),
    "jpeg_compression": ("2b9cc4c864e0193bb64db8d7728f8187", "c851b7f1324e1d2ffddeb76920576d11"),
    "speckle_noise": ("ef00b87611792b00df09c0b0237a1e30", "e3f215b1a0f9fd9fd6f0d1cf94a7ce99"),
    "gaussian_blur": ("c33370155bc9b055fb4a89113d3c559d", "5204ba0d557839772ef5a4196a052c3e"),
    "spatter": ("8a5a3903a7f8f65b59501a6093b4311e", "12ccf41d62564d36e1f6a6ada5022728"),
    "saturate": ("1cfae0964219c5102abbb883e538cc56", "c0697e9fdd646916a61e9c312c77bf6b"),
}
"""By file, of CIFAR-10-C and of CIFAR-100-C."""

RELEASES: dict[str, Release] = {
    "cifar10": Release(
        "CIFAR-10-C",
        "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
        2_918_471_680,
        "56bf5dcef84df0e2308c6dcbcbbd8499",
        {name: first for name, (first, _) in MD5.items()},
    ),
    "cifar100": Release(
        "CIFAR-100-C",
        "https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
        2_918_473_216,
        "11f0ed0f1191edbf9fa23466ae6021d3",
        {name: second for name, (_, second) in MD5.items()},
    ),
}
