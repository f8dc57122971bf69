"""The paper's six backbones by name: what each stands for in timm or torchvision."""

CLIP_IMAGE_TOWER = "vit_base_patch32_clip_quickgelu_224.openai"  # without quickgelu it is another network
PAPER_BACKBONES = {
    "densenet169": "densenet169.tv_in1k",
    "resnet152": "resnet152.tv2_in1k",
    "swin_t": "torchvision/swin_t",  # timm's swin_tiny has Microsoft's weights; the paper had torchvision's
    "clip_vit_b32": CLIP_IMAGE_TOWER,
    "facenet": "facenet",
    "vggface": "vggface",
}
