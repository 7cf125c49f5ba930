"""
Embed aligned face crops into Parquet, any number of them.

The columns are those of the source except images (file_name for a folder of image files), embedding (unit length) and
norm. Run it again to resume after an interruption. On several GPUs, use `accelerate launch -m hf_face.cli embed ...`.

For whole photographs, `hf-face group` and `hf-face gallery` find and align the faces first.

Example:
    hf-face embed --model outputs/demo --images crops --output embeddings.parquet
    hf-face embed --model org/r50 --images crops --output r50.parquet --no_flip --batch_size 32 --num_workers 2
    hf-face embed --model org/r50 --images shards/ --output embeddings --num_workers 8
    accelerate launch -m hf_face.cli embed --model outputs/demo --images crops --output crops.parquet --bf16
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..user_input import check_at_least, check_output_file, check_output_folder, check_outside, has_file_suffix
from .loading import check_data, check_model
from .parser import CommandParser


@dataclass
class EmbedArguments:
    model: str = field(metadata={"help": "Folder or Hub name of a face model."})
    images: str = field(
        metadata={
            "help": "Aligned face crops: a folder of images, including subfolders; Parquet; tar shards in the "
            "webdataset layout; RecordIO; or a Hub dataset."
        }
    )
    output: str = field(
        metadata={"help": "Parquet file to write, or a folder for several (data/train-00000-of-00012.parquet)."}
    )
    split: str = field(default="train", metadata={"help": "Split of the images, if they have several."})
    image_column: str | None = field(
        default=None,
        metadata={"help": "Image column of Parquet, tar shards or a Hub dataset; the only one by default."},
    )
    images_per_shard: int = field(
        default=16_384,
        metadata={"help": "Images per file of a folder, and the most that an interruption can lose."},
    )
    batch_size: int | None = field(
        default=None, metadata={"help": "Images per forward pass; 16 on a CPU and 128 on a GPU by default."}
    )
    num_workers: int = field(default=0, metadata={"help": "Number of processes that load images."})
    flip: bool = field(
        default=True,
        metadata={
            "help": "Whether to add the flipped image's embedding, which is slightly more accurate but twice the work."
        },
    )
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16, if the hardware supports it."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the Python code in the model folder; only for authors you trust."}
    )

    def __post_init__(self):
        check_at_least(1, batch_size=self.batch_size, images_per_shard=self.images_per_shard)
        check_at_least(0, num_workers=self.num_workers)


def main(argv: Sequence[str]) -> None:
    (args,) = CommandParser(EmbedArguments, __doc__).parse_args_into_dataclasses(argv)
    check_model(args.model)
    check_data(args.images)
    check_output(args.output, args.images)

    import torch
    from accelerate import PartialState
    from transformers import AutoModel

    from ..data import load_images
    from ..embedding import Embedder, embed_to_parquet
    from ..models.loading import load_image_processor

    state = PartialState(cpu=not torch.accelerator.is_available())
    with state.main_process_first():  # which fills the cache of `datasets`
        images = load_images(args.images, args.split, args.image_column)
    embedder = Embedder(
        AutoModel.from_pretrained(args.model, trust_remote_code=args.trust_remote_code).to(state.device),
        load_image_processor(args.model, args.trust_remote_code),
        batch_size=args.batch_size,
        flip=args.flip,
        dtype=torch.bfloat16 if args.bf16 else None,
        num_workers=args.num_workers,
    )
    embed_to_parquet(embedder, images, args.output, args.images_per_shard)
    state.print(f"{len(images)} images embedded into {args.output}")
    state.destroy_process_group()


def check_output(output: str, images: str) -> None:
    """
    Raises:
        ValueError: if `output` cannot be written, or is a folder among the images.
    """
    if has_file_suffix(output):
        return check_output_file(output, [".parquet"])
    check_outside(output, images)
    check_output_folder(output)
