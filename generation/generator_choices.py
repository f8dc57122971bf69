"""What the generators' commands let a user choose from, by name; light, so that --help and refusals come at once."""

PROMPTS_FROM = ("instance", "conditions")  # instance: the photographs' prompts; conditions: a person drawn per image
NONE, CONDITION, PHENOTYPE = ADAPTERS = ("none", "condition", "phenotype")  # that sample beside the base
SCHEDULERS = ("dpmsolver++", "ddim", "pipeline")  # that sample; pipeline: the one that the pipeline came with
MIXED_PRECISION = ("no", "fp16", "bf16")  # of the frozen networks of a diffusion pipeline
FASTGAN_RESOLUTIONS = (64, 128, 256, 512, 1024)  # px
FASTGAN_BASE_CHANNELS = 64  # of a map of 128 px, as in the paper
PERCEPTUAL = ("l1", "lpips")  # losses of the decoders in FastGAN's discriminator
