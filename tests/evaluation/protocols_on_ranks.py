"""What several ranks do with files that they share; started by `test_script.py` on two ranks and on one.

torchrun --standalone --nproc_per_node 2 protocols_on_ranks.py MODEL IJB_FOLDER OUTPUT
"""

import json
import shutil
import sys
import time
from pathlib import Path
from unittest.mock import patch

from accelerate import PartialState
from transformers import AutoModel

from hf_face import FaceImageProcessor
from hf_face.data import load_orl
from hf_face.evaluation import AllPairsEvaluator, Embedder, EmbeddingCache, IJBEvaluator, folder, load_ijb


def run(model: str | Path, ijb: str | Path, output: str | Path) -> dict[str, float]:
    embedder = Embedder(
        AutoModel.from_pretrained(model), FaceImageProcessor.from_pretrained(model), batch_size=7, progress=False
    )
    protocol, cache = load_ijb(ijb), EmbeddingCache(Path(output, "cache"), shard_size=20)
    metrics = IJBEvaluator(protocol, cache=cache).evaluate(embedder, output)
    assert IJBEvaluator(protocol, cache=cache).evaluate(embedder) == metrics  # from the shards
    metrics |= AllPairsEvaluator(load_orl().select(range(200))).evaluate(embedder, output)  # a single block
    return metrics | {"rows_after_resuming": float(resume(embedder, ijb, Path(output, "embeddings.parquet")))}


def resume(embedder: Embedder, ijb: str | Path, output: Path) -> int:
    """Embed a folder whose parts are all there, as if stopped just before the end, the second rank being slow."""
    with patch.object(folder, "IMAGES_PER_PART", 20):
        with patch.object(shutil, "rmtree"):
            folder.embed_folder(embedder, Path(ijb, "loose_crop"), output)
        output.unlink(missing_ok=True)
        check = folder._check_part
        with patch.object(
            folder, "_check_part", lambda *part: (time.sleep(PartialState().process_index), check(*part))
        ):
            return folder.embed_folder(embedder, Path(ijb, "loose_crop"), output)


if __name__ == "__main__":
    state = PartialState(cpu=True)
    report = run(*sys.argv[1:])
    if state.is_main_process:
        print(json.dumps(report))
    state.destroy_process_group()
