"""
Embed a folder of aligned face crops into a Parquet file.

Its columns are file_name, embedding (unit length) and norm. Run it again to resume after an interruption. On several
GPUs, use `accelerate launch -m hf_face.cli embed ...`.

Example:
    hf-face embed --model outputs/demo --images photographs --output embeddings.parquet
    hf-face embed --model org/r50 --images crops --output r50.parquet --no_flip --batch_size 32 --num_workers 2
    accelerate launch -m hf_face.cli embed --model outputs/demo --images crops --output crops.parquet --bf16
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..user_input import check_at_least, check_folder, check_output_file
from .loading import check_model
from .parser import CommandParser


@dataclass
class EmbedArguments:
    model: str = field(metadata={"help": "Folder or Hub name of a face model."})
    images: str = field(metadata={"help": "Folder of aligned face crops, including subfolders."})
    output: str = field(metadata={"help": "Parquet file to write."})
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

    trust_remote_code: bool = field(default=False, metadata={"help": "Whether to run code from the model folder."})

    def __post_init__(self):
        check_at_least(1, batch_size=self.batch_size)
        check_at_least(0, num_workers=self.num_workers)


def main(argv: Sequence[str]) -> None:
    (args,) = CommandParser(EmbedArguments, __doc__).parse_args_into_dataclasses(argv)
    check_model(args.model)
    check_folder(args.images)
    check_output_file(args.output, [".parquet"])

    import torch
    from accelerate import PartialState
    from transformers import AutoModel

    from ..embedding import Embedder, embed_folder
    from ..models.loading import load_image_processor

    state = PartialState(cpu=not torch.accelerator.is_available())
    embedder = Embedder(
        AutoModel.from_pretrained(args.model, trust_remote_code=args.trust_remote_code).to(state.device),
        load_image_processor(args.model, args.trust_remote_code),
        batch_size=args.batch_size,
        flip=args.flip,
        dtype=torch.bfloat16 if args.bf16 else None,
        num_workers=args.num_workers,
    )
    count = embed_folder(embedder, args.images, args.output)
    state.print(f"{count} images embedded into {args.output}")
