"""What can be chosen when photographs are restored: networks by role and short name, sizes; without the networks."""

from dataclasses import dataclass

# Weights that can be named by a short name: repository on the Hub, file, licence. GFPGAN's authors publish theirs
# elsewhere (https://github.com/TencentARC/GFPGAN/releases): give the downloaded file.
KNOWN = {
    "realesrgan-x4plus": ("Comfy-Org/Real-ESRGAN_repackaged", "RealESRGAN_x4plus.safetensors", "BSD-3-Clause"),
    "ddcolor-modelscope": ("piddnad/DDColor-models", "ddcolor_modelscope.pth", "Apache-2.0"),
}
ROLES = {
    "upscaler": "a super-resolution network such as Real-ESRGAN x4plus",
    "face_enhancer": "a network for 512 px faces such as GFPGAN 1.4",
    "colorizer": "a DDColor network",
}
MIN_TILE_PX = 64


@dataclass(frozen=True)
class RestorationSettings:
    """Sizes with which photographs are restored; the defaults of the first two are the paper's."""

    output_scale: float = 3.5  # px of the restored picture per px of the photograph
    pad_to: int = 512  # smallest side, px, of the black square on which a photograph is laid; 0: none
    max_side: int = 4096  # longest side, px, of a restored picture
    tile: int = 512  # side, px, of the tiles in which larger pictures go through the upscaler
    batch_size: int = 1  # pictures, or tiles of one picture, per step
