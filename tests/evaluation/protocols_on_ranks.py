"""What several ranks do with files that they share; started by `test_script.py` on two ranks and on one.

torchrun --standalone --nproc_per_node 2 protocols_on_ranks.py MODEL IJB_FOLDER OUTPUT
"""

import json
import shutil
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq
from accelerate import PartialState
from transformers import AutoModel

from hf_face import FaceImageProcessor
from hf_face.data import load_images, load_orl
from hf_face.embedding import embed_to_parquet, parquet
from hf_face.evaluation import AllPairsEvaluator, Embedder, EmbeddingCache, IJBEvaluator, load_ijb


def run(model: str | Path, ijb_folder: str | Path, output: str | Path) -> dict[str, float]:
    embedder = Embedder(
        AutoModel.from_pretrained(model), FaceImageProcessor.from_pretrained(model), batch_size=7, progress=False
    )
    ijb = IJBEvaluator(load_ijb(ijb_folder), cache=EmbeddingCache(Path(output, "cache"), shard_size=20))
    all_pairs = AllPairsEvaluator(load_orl().select(range(200)))  # a single block
    found = ijb.evaluate(embedder, output)
    assert ijb.evaluate(embedder) == found  # from the shards
    metrics = ijb.prefixed(found) | all_pairs.prefixed(all_pairs.evaluate(embedder, output))
    photographs = Path(ijb_folder, "loose_crop")
    return metrics | {"rows_after_resuming": float(resume(embedder, photographs, Path(output, "embeddings.parquet")))}


def resume(embedder: Embedder, photographs: Path, output: Path) -> int:
    """Embed a folder whose shards are all there, as if stopped just before the end, the second rank being slow."""
    images = load_images(photographs)
    with patch.object(shutil, "rmtree"):
        embed_to_parquet(embedder, images, output, images_per_shard=20)
    output.unlink(missing_ok=True)
    check = parquet._check_existing

    def check_slowly(*args) -> None:
        time.sleep(PartialState().process_index)
        check(*args)

    with patch.object(parquet, "_check_existing", check_slowly):
        embed_to_parquet(embedder, images, output, images_per_shard=20)
    return pq.read_metadata(output).num_rows


if __name__ == "__main__":
    state = PartialState(cpu=True)
    report = run(*sys.argv[1:])
    if state.is_main_process:
        print(json.dumps(report))
    state.destroy_process_group()
