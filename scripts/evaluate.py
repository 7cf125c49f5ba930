"""
Evaluates a face model on one or more protocols: JSON to the standard output, figures and JSON into a folder.

    python scripts/evaluate.py --model outputs/demo --protocol verification --data lfw.bin --output_dir results
    python scripts/evaluate.py --model outputs/demo --protocol lfw cfp_fp agedb_30 quality --data faces_emore
    accelerate launch scripts/evaluate.py --model outputs/demo --protocol rfw --data RFW/test --autocast bf16

Protocols given together share the embeddings of the images they share.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from transformers import AutoModel, HfArgumentParser

import hf_face  # noqa: F401 - registers the face models with the Auto classes
from hf_face.embedding import Embedder
from hf_face.evaluation.protocols import PROTOCOLS, ProtocolArguments
from hf_face.models.loading import load_image_processor


@dataclass
class EvaluationArguments:
    model: str = field(metadata={"help": "Model folder or Hub name, with its image processor."})
    protocol: list[str] = field(metadata={"help": f"One or more of: {', '.join(PROTOCOLS)}."})
    output_dir: str | None = field(default=None, metadata={"help": "Where figures and `metrics.json` go."})
    batch_size: int = field(default=128, metadata={"help": "Images per forward pass and process."})
    autocast: Literal["no", "bf16", "fp16"] = field(default="no", metadata={"help": "Precision of the forward passes."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read and decode images ahead."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that the model folder brings."})

    def __post_init__(self):
        if unknown := [name for name in self.protocol if name not in PROTOCOLS]:
            raise ValueError(f"unknown protocol {', '.join(unknown)}; known are {', '.join(PROTOCOLS)}")


def main():
    args, protocol_args = HfArgumentParser((EvaluationArguments, ProtocolArguments)).parse_args_into_dataclasses()
    state = PartialState(cpu=not torch.accelerator.is_available())
    evaluators = [evaluator for name in args.protocol for evaluator in PROTOCOLS[name](protocol_args)]
    image_processor = load_image_processor(args.model)
    model = AutoModel.from_pretrained(args.model, trust_remote_code=args.trust_remote_code).to(state.device)
    embedder = Embedder(
        model,
        image_processor,
        batch_size=args.batch_size,
        flip=any(evaluator.needs_flip for evaluator in evaluators),
        dtype={"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[args.autocast],
        num_workers=args.num_workers,
    )

    metrics = {}
    for evaluator in evaluators:
        metrics |= evaluator.evaluate(embedder, args.output_dir)
    if state.is_main_process:
        not_measurable = [key for evaluator in evaluators for key in evaluator.not_measurable]
        report = {"model": args.model, "metrics": metrics, "not_measurable": not_measurable}
        report = json.dumps(report, indent=2, allow_nan=False)
        if args.output_dir is not None:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            Path(args.output_dir, "metrics.json").write_text(report + "\n")
        print(report)
    state.destroy_process_group()


if __name__ == "__main__":
    main()
