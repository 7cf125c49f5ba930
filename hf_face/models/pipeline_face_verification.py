"""The pipeline that tells whether two photographs show the same person."""

from typing import Any

import numpy as np
from transformers.utils import logging

from .pipeline_face_embedding import FacePipeline, Photograph, check_policy, refuse_unknown_parameters

FALSE_ACCEPT_RATE = 1e-3

logger = logging.get_logger(__name__)


class FaceVerificationPipeline(FacePipeline):
    """
    Tells whether two photographs show the same person: `pipeline("face-verification")((first, second))`.

    Args:
        detector ([`FaceDetector`], *optional*):
            Finds the faces and their landmarks; defaults to [`YuNetDetector`].
        policy (`str`, *optional*, defaults to `"largest"`):
            Which faces to compare where a photograph has several: the `"largest"`, the one nearest to the `"center"`,
            or the most similar two of `"all"`.
        false_accept_rate (`float`, *optional*, defaults to 1e-3):
            How often two different people may be taken for one. It selects the threshold in the model's configuration
            (`similarity_thresholds`).
        threshold (`float`, *optional*):
            The least cosine similarity of one person, in place of a calibrated one.
        timeout (`float`, *optional*):
            Seconds to wait for a URL.

    Returns:
        For each pair of photographs, a dictionary:

        - **similarity** (`float`): Cosine similarity of the two faces, from -1 to 1.
        - **threshold** (`float`): The least similarity at which they count as the same person.
        - **same** (`bool`): Whether they do.
        - **faces** (`list[dict]`): The two faces, as [`FaceEmbeddingPipeline`] describes them.
        - **boxes** (`list[dict[str, float]]`): Their boxes.

    Raises:
        ValueError: if no face is found in a photograph, it is not an image, or there is no threshold for the false
            accept rate.

    Example:
    ```python
    >>> from transformers import pipeline
    >>> import hf_face

    >>> verify = pipeline("face-verification")
    >>> verify(("passport.jpg", "selfie.jpg"), false_accept_rate=1e-4)["same"]  # doctest: +SKIP
    True
    ```
    """

    def __call__(self, photographs, *others, **kwargs):
        """
        Compare two photographs, `verify(first, second)` or `verify((first, second))`, or many pairs: a list, generator
        or dataset of pairs. Options are those of the pipeline.
        """
        if len(others) == 1:
            return super().__call__((photographs, *others), **kwargs)
        if others:
            raise ValueError(f"Pass two photographs, or a list of pairs; found {1 + len(others)} photographs.")
        return super().__call__(photographs, **kwargs)

    def _sanitize_parameters(
        self,
        policy: str | None = None,
        false_accept_rate: float | None = None,
        threshold: float | None = None,
        timeout: float | None = None,
        **kwargs,
    ):
        refuse_unknown_parameters(kwargs, "detector, policy, false_accept_rate, threshold, timeout")
        given = {
            "policy": check_policy(policy),
            "false_accept_rate": false_accept_rate,
            "threshold": threshold,
            "timeout": timeout,
        }
        return {name: value for name, value in given.items() if value is not None}, {}, {}

    def preprocess(
        self,
        pair,
        policy: str = "largest",
        false_accept_rate: float = FALSE_ACCEPT_RATE,
        threshold: float | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            what = f"{len(pair)} photographs" if isinstance(pair, list | tuple) else type(pair).__name__
            raise ValueError(f"Verification compares pairs of photographs, (first, second), but found {what}.")
        if threshold is None:  # first, since finding faces takes longer
            threshold = calibrated_threshold(self.model.config, false_accept_rate)
        found = [self.find_faces(image, timeout) for image in pair]
        for photograph in found:
            check_number_of_faces(photograph, policy)
        return {"pairs": tuple(each.keep(policy) for each in found), "threshold": float(threshold)}

    def _forward(self, model_inputs):
        pairs, thresholds = model_inputs["pairs"], model_inputs["threshold"]
        batched = isinstance(pairs, list)
        pairs, thresholds = (pairs, thresholds) if batched else ([pairs], [thresholds])
        faces = self.embed_faces([photograph for pair in pairs for photograph in pair])
        answers = [
            compare_faces(first, second, threshold)
            for first, second, threshold in zip(faces[::2], faces[1::2], thresholds, strict=True)
        ]
        return {"answers": answers if batched else answers[0]}

    def postprocess(self, model_outputs) -> dict[str, Any]:
        return model_outputs["answers"]


def compare_faces(first: list[dict], second: list[dict], threshold: float) -> dict[str, Any]:
    """The answer for the most similar two of the faces in two photographs."""
    similarities = np.stack([face["embedding"] for face in first]) @ np.stack([face["embedding"] for face in second]).T
    row, column = np.unravel_index(similarities.argmax(), similarities.shape)
    similarity, faces = float(similarities[row, column]), [first[row], second[column]]
    return {
        "similarity": similarity,
        "threshold": threshold,
        "same": similarity >= threshold,
        "faces": faces,
        "boxes": [face["box"] for face in faces],
    }


def check_number_of_faces(photograph: Photograph, policy: str) -> None:
    """Raise `ValueError` if there is no face, and warn if one of several is chosen."""
    found = len(photograph.boxes)
    if not found:
        raise ValueError(f"No face was found in {photograph.name}.")
    if found > 1 and policy != "all":
        chosen = "largest" if policy == "largest" else "one nearest to the center"
        logger.warning(
            f"{found} faces were found in {photograph.name}: the {chosen} is compared. With policy='all', the most "
            "similar two are."
        )


def calibrated_threshold(config, false_accept_rate: float = FALSE_ACCEPT_RATE) -> float:
    """
    The least similarity of one person at a false accept rate, from a model's configuration.

    Raises:
        ValueError: if the model is not calibrated, or not for this rate.
    """
    calibrated = {float(rate): threshold for rate, threshold in (config.similarity_thresholds or {}).items()}
    if false_accept_rate in calibrated:
        return calibrated[false_accept_rate]
    if calibrated:
        rates = ", ".join(f"{rate:g}" for rate in sorted(calibrated))
        raise ValueError(
            f"The model has no threshold for a false accept rate of {false_accept_rate:g}, only for {rates}: pass "
            "false_accept_rate=... with one of them, or threshold=... of your own."
        )
    raise ValueError(
        "The model has no calibrated threshold (similarity_thresholds in its config.json), so similarities cannot be "
        "decided on. Pass threshold=..., or take the `single_image_threshold@far=...` of `hf-face evaluate` on pairs "
        "like yours."
    )
