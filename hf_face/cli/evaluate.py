"""
Evaluate a face model on one or more protocols of aligned crops, with a JSON report and figures.

Images that several protocols share are embedded once. A protocol is a name from the list below, verification pairs, or
a name with options as in recipes. Separate options (--data) are passed to every protocol that has them. --plugins
imports modules that register their own protocols. On several GPUs, use `accelerate launch -m hf_face.cli evaluate ...`.

{protocols}

Example:
    hf-face evaluate --model outputs/demo --protocol lfw.bin --output_dir results
    hf-face evaluate --model outputs/demo --protocol lfw cfp_fp agedb_30 quality --data faces_emore
    hf-face evaluate --model outputs/demo --protocol verification --data pairs.txt --images crops --flip none
    hf-face evaluate --model outputs/demo --protocol identification --data gallery --probes searched
    hf-face evaluate --model outputs/demo --protocol '{folder: {data: crops}}' '{ijb: {data: IJBC}}'
"""

from collections.abc import Sequence

from .loading import check_data, check_model
from .parser import CommandParser


def main(argv: Sequence[str]) -> None:
    from accelerate import PartialState

    from ..evaluation.protocols import ProtocolArguments, describe_protocols
    from ..evaluation.run import EvaluationArguments, as_json, evaluate_model
    from ..registry import load_plugins

    help_text = __doc__.replace("{protocols}", f"Protocols:\n{describe_protocols()}")
    parser = CommandParser((EvaluationArguments, ProtocolArguments), help_text)
    args, options = parser.parse_args_into_dataclasses(argv)
    check_model(args.model)
    check_data(options.data, options.probes)
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
