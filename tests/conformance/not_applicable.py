"""Which of transformers' common tests do not apply to which models, and why: the one place for it."""

EMBEDDINGS = "an image has no tokens, so a face model has no embedding table for them"
NO_HEAD = "a backbone's folder is refused with a word on `from_backbone`: loading it would leave the rest random"
TIMM_CHECKPOINTS = "timm checkpoints its own layers, which are not transformers' GradientCheckpointingLayer"
TIMM_MAPS = "timm's hidden states are feature maps, copied from the tokens"
INCEPTION = "the numbers of channels of Inception-ResNet are fixed, so its smallest network has ten million weights"
OTHER_TASKS = "a pipeline for another task"

# Test class, test, reason; with the wildcards of file names.
NOT_APPLICABLE = (
    ("*", "test_model_get_set_embeddings", EMBEDDINGS),
    ("Recognition*", "test_correct_missing_keys", NO_HEAD),
    ("FoundationFace*", "test_correct_missing_keys", NO_HEAD),
    ("*TimmFace*", "test_gradient_checkpointing_enable_disable", TIMM_CHECKPOINTS),
    ("*TimmFace*", "test_training_gradient_checkpointing*", TIMM_CHECKPOINTS),
    ("*TimmFaceVit*", "test_hidden_states_output", TIMM_MAPS),
    ("*TimmFaceVit*", "test_retain_grad_hidden_states_attentions", TIMM_MAPS),
    ("*InceptionResnet*", "test_model_is_small", INCEPTION),
    ("Pipeline*", "test_pipeline_[!i]*", OTHER_TASKS),
    ("Pipeline*", "test_pipeline_image_[!f]*", OTHER_TASKS),
)
