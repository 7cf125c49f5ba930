"""
Evaluate a face model on one or more protocols. Prints JSON, and saves figures and JSON to a folder.

    python scripts/evaluate.py --model outputs/demo --protocol lfw.bin --output_dir results
    python scripts/evaluate.py --model outputs/demo --protocol lfw cfp_fp agedb_30 quality --data faces_emore
    python scripts/evaluate.py --model outputs/demo --protocol '{folder: {data: photographs}}' '{ijb: {data: IJBC}}'
    accelerate launch scripts/evaluate.py --model outputs/demo --protocol rfw --data RFW/test --autocast bf16

Images that several protocols share are embedded once. A protocol is a name from the list below, verification pairs, or
a name with options as in recipes. Separate options (--data) are passed to every protocol that has them. --plugins
imports modules that register their own protocols.
"""

from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter

from accelerate import PartialState
from transformers import HfArgumentParser

import hf_face  # noqa: F401 - registers the face models with the Auto classes
from hf_face.evaluation.protocols import ProtocolArguments, describe_protocols
from hf_face.evaluation.run import EvaluationArguments, as_json, evaluate_model
from hf_face.registry import load_plugins


class HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults of options, and keeps the layout of the description."""


def main():
    parser = HfArgumentParser(
        (EvaluationArguments, ProtocolArguments),
        usage="%(prog)s --model MODEL --protocol PROTOCOL [PROTOCOL ...] [--option value ...]",
        description=__doc__,
        epilog=f"Protocols:\n{describe_protocols()}",
        formatter_class=HelpFormatter,
    )
    args, options = parser.parse_args_into_dataclasses()
    load_plugins(args.plugins)
    report = evaluate_model(
        args.model,
        options.specs(args.protocol),
        output_dir=args.output_dir,
        batch_size=args.batch_size,
        autocast=args.autocast,
        num_workers=args.num_workers,
        trust_remote_code=args.trust_remote_code,
    )
    state = PartialState()
    state.print(as_json(report))
    state.destroy_process_group()


if __name__ == "__main__":
    main()
