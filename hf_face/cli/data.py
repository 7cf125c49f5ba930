"""
Convert identity data between formats, without re-encoding images.

If interrupted, run it again to write only the missing shards.

Example:
    hf-face data --source faces_emore --output_dir data/ms1mv2
    hf-face data --source org/faces --split test --image_column photo --label_column person --output_dir data/faces
    hf-face data --source faces_emore --output_dir data/ms1mv2 --push_to_hub me/ms1mv2 --license other
    hf-face data --source data/ms1mv2 --output_dir ms1mv2_recordio --to recordio
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..user_input import check_at_least, check_output_folder
from .loading import check_data
from .parser import CommandParser


@dataclass
class ConversionArguments:
    source: str = field(
        metadata={
            "help": "RecordIO (the folder of train.rec), a folder with one subfolder of images per person, Parquet, "
            "tar shards, or a Hub dataset."
        }
    )
    output_dir: str = field(metadata={"help": "Folder to write to; existing shards from the same source are kept."})
    to: Literal["parquet", "recordio"] = field(
        default="parquet", metadata={"help": "parquet, for datasets and the Hub, or recordio, for InsightFace's tools."}
    )
    name: str | None = field(
        default=None, metadata={"help": "Title of the dataset card; the output folder's name by default."}
    )
    images_per_shard: int = field(
        default=50_000, metadata={"help": "Images per Parquet file: 50,000 crops of 112 x 112 take about 300 MB."}
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "Shards to write at once; one per core by default."}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Hub dataset to publish the Parquet files to, such as me/ms1mv2."}
    )
    license: str | None = field(
        default=None,
        metadata={"help": "License of the dataset, such as cc-by-nc-4.0, other or unknown; required to publish it."},
    )
    private: bool | None = field(default=None, metadata={"help": "Make a new Hub dataset private."})
    split: str = field(default="train", metadata={"help": "Split to convert if the source has several."})
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the images; the only image column by default."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the people; label (or cls) by default."}
    )

    def __post_init__(self):
        check_output_folder(self.output_dir)
        check_at_least(1, images_per_shard=self.images_per_shard, num_threads=self.num_threads)
        if self.push_to_hub and self.to != "parquet":
            raise ValueError("only Parquet is pushed to the Hub: leave out --to recordio")


def main(argv: Sequence[str]) -> None:
    (args,) = CommandParser(ConversionArguments, __doc__).parse_args_into_dataclasses(argv)
    check_data(args.source)

    from huggingface_hub import HfApi

    from ..data import convert_to_parquet, load_identities, open_for_conversion, write_recordio
    from ..data.sources import check_output_dir
    from ..hub.datasets_and_metrics import check_license, push_dataset
    from ..hub.publishing import full_name

    if args.push_to_hub:
        check_license(args.license)
        full_name(HfApi(), args.push_to_hub)  # fails without a login, before hours of converting
    columns = {"split": args.split, "image_column": args.image_column, "label_column": args.label_column}
    if args.to == "recordio":
        check_output_dir(args.output_dir, args.source)
        print(write_recordio(load_identities(args.source, **columns), args.output_dir))
        return
    source = open_for_conversion(args.source, **columns)
    print(convert_to_parquet(source, args.output_dir, args.name, args.images_per_shard, args.num_threads))
    if args.push_to_hub:
        info = push_dataset(args.output_dir, args.push_to_hub, license=args.license, private=args.private)
        print(info.commit_url)
