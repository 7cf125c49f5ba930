"""A backbone that trains in seconds on a CPU, and a recipe of it for the ORL faces."""

TINY_VIT = {
    "model_type": "timm_face",
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2},
    "embedding_size": 16,
    "image_size": 32,
}
TINY_RECIPE = {
    "train_data": ["orl"],
    "held_out_identities": 0,
    "backbone": TINY_VIT,
    "margin": "adaface",
    "learning_rate": 0.001,
    "logging_steps": 1,
    "save_strategy": "steps",
    "report_to": "none",
    "disable_tqdm": True,
}
