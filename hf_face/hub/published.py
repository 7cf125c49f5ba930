"""What others published about a model that is trained as they trained theirs."""

import inspect
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn


@dataclass
class Published:
    """
    The publication that a training follows. Its figures are those of its authors' weights.

    Args:
        source (`str`): Name of the publication.
        url (`str`): Where it is.
        parameters (`int`, *optional*): Number of parameters of the backbone. A backbone of another size is refused.
        gpus (`int`, *optional*, defaults to 1): Number of GPUs it was trained on.
        figures (`dict[str, dict[str, float]]`, *optional*):
            Metrics by evaluation, `{"IJB-C": {"tar@far=1e-4": 0.9494}}`, as fractions of one.
        note (`str`, *optional*): Where else figures are, or why there are none.
        differs (`dict[str, str]`, *optional*): What this training does differently, by subject.
    """

    source: str
    url: str
    parameters: int | None = None
    gpus: int = 1
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    note: str | None = None
    differs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Any) -> "Published":
        """
        Build it from the values of a recipe.

        Raises:
            ValueError: if a field is unknown or missing.
        """
        known = ", ".join(field.name for field in fields(cls))
        if not isinstance(values, dict):
            raise ValueError(f"published: expected its fields ({known}), found {values!r}.")
        try:
            inspect.signature(cls).bind(**values)
        except TypeError as error:
            raise ValueError(f"published: {error}; the fields are {known}.") from None
        return cls(**values)

    def check_size(self, backbone: nn.Module) -> None:
        """
        Raises:
            ValueError: if a backbone does not have the published number of parameters.
        """
        found = sum(parameter.numel() for parameter in backbone.parameters())
        if self.parameters not in (None, found):
            raise ValueError(
                f"published.parameters: {self.source} states {self.parameters:,} parameters, but the backbone has "
                f"{found:,}. Correct the backbone, or set `published: null` for a model of your own."
            )
