"""
Embeds a folder of aligned face crops into a Parquet file: file_name, embedding (unit length), norm.

    python scripts/embed.py --model outputs/demo --images photographs --output embeddings.parquet

Started again after it was stopped, it goes on where it was.
"""

from dataclasses import dataclass, field

import torch
from accelerate import PartialState
from transformers import AutoModel, HfArgumentParser

import hf_face  # noqa: F401  registers the models
from hf_face.embedding import Embedder, embed_folder
from hf_face.models.loading import load_image_processor


@dataclass
class EmbedArguments:
    model: str = field(metadata={"help": "A face model: folder or Hub name."})
    images: str = field(metadata={"help": "Folder of aligned face crops, in subfolders or not."})
    output: str = field(metadata={"help": "The Parquet file to write."})
    batch_size: int = field(default=128, metadata={"help": "Images per forward pass."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read and decode ahead."})
    flip: bool = field(
        default=True, metadata={"help": "Add the flipped image's embedding: twice the work, slightly more accurate."}
    )
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16, where the hardware is fast at it."})


def main():
    (args,) = HfArgumentParser(EmbedArguments).parse_args_into_dataclasses()
    embedder = Embedder(
        AutoModel.from_pretrained(args.model).to(PartialState(cpu=not torch.accelerator.is_available()).device),
        load_image_processor(args.model),
        batch_size=args.batch_size,
        flip=args.flip,
        dtype=torch.bfloat16 if args.bf16 else None,
        num_workers=args.num_workers,
    )
    count = embed_folder(embedder, args.images, args.output)
    print(f"{count} images embedded into {args.output}")


if __name__ == "__main__":
    main()
