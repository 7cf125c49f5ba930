"""foamliu's MobileFaceNet."""

from ..models import FaceImageProcessor, FacePreTrainedModel
from ..models.configuration_mobilefacenet import MOBILEFACENET
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .layout import LayoutSource
from .mobilefacenet_layouts import FoamliuMobileFaceNet


@sources.register("mobilefacenet", citation=MOBILEFACENET)
class MobileFaceNet(LayoutSource):
    """foamliu/MobileFaceNet: the paper's network with ReLU6, with ImageNet's mean and standard deviation."""

    url = "https://github.com/foamliu/MobileFaceNet"
    files = "`.pt`"
    license = "not stated; the repository is Apache-2.0"
    layouts = (FoamliuMobileFaceNet(),)
    preprocessing = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}  # noqa: RUF012
    projection = "conv3.weight"  # a 1 x 1 convolution there, a linear layer here

    def convert(self, checkpoint: Checkpoint, **options) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
        tensors = checkpoint.tensors(self.nested_under)
        if self.projection in tensors:
            tensors[self.projection] = tensors[self.projection].flatten(1)
        return super().convert(Checkpoint(tensors, origin=checkpoint.origin), **options)

    def export(self, model: FacePreTrainedModel) -> StateDict:
        tensors = super().export(model)
        tensors[self.projection] = tensors[self.projection][:, :, None, None]
        return tensors
