"""
Many faces: a gallery's search, grouping, and embedding at scale.

    python benchmarks/many_faces.py                                 # all of it, at full size
    python benchmarks/many_faces.py --parts gallery --photographs 1_000_000
    python benchmarks/many_faces.py --parts grouping --faces 13_000
    python benchmarks/many_faces.py --parts clustering --data ../shared/data
    python benchmarks/many_faces.py --parts embedding --images 2_000 --num_workers 1 2

`gallery`: time of a query, and the share of queries for which the nearest face is the one that an exact search finds.
`grouping`: time and memory of grouping as many synthetic faces as LFW has, with as many photographs of each person.
`clustering`: BCubed and pairwise F of clustering methods on LFW, aligned crops and photographs as published, with the
model's own embeddings. Thresholds are the similarities that a share of all impostor pairs of the validation crops
reaches, as of a calibrated model. `embedding`: images a second from JPEG to Parquet, compared to the model alone on
pixels in memory.
"""

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, Image, load_dataset
from PIL import Image as PillowImage
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering
from tqdm.auto import tqdm
from transformers import pipeline

from hf_face import FaceGallery, convert_checkpoint
from hf_face.embedding import Embedder, embed_to_parquet
from hf_face.evaluation import clustering_metrics
from hf_face.models.opencv_zoo import SFACE, find_zoo_file
from hf_face.pipelines import default_model, group_embeddings

FARS = (1e-2, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
SPREAD = 0.09  # of a face around its person, per dimension: two faces of one person have a similarity of about 0.5


def make_faces(num_people: int, counts: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors (sum of counts, size), float32, around those of people."""
    faces = np.repeat(unit(rng.standard_normal((num_people, size), dtype=np.float32)), counts, axis=0)
    for start in range(0, len(faces), 100_000):
        part = faces[start : start + 100_000]
        part += SPREAD * rng.standard_normal(part.shape, dtype=np.float32) * np.sqrt(128 / size)
        part[:] = unit(part)
    return faces


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure_gallery(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    gallery = FaceGallery(pipeline("face-embedding", model=str(default_model())))
    size = gallery.pipeline.model.config.embedding_size
    num_people = args.photographs // 10
    faces = make_faces(num_people, np.full(num_people, 10), size, rng)
    people = pa.array(np.repeat(np.arange(num_people), 10).astype(str))
    embedding = pa.FixedSizeListArray.from_arrays(faces.ravel(), size)
    norm = pa.array(np.ones(len(faces), dtype=np.float32))
    gallery._set_rows(pa.table({"person": people, "file_name": people, "embedding": embedding, "norm": norm}))
    asked = rng.integers(0, len(faces), args.queries)
    queries = unit(faces[asked] + SPREAD * rng.standard_normal((args.queries, size), dtype=np.float32))
    start = time.perf_counter()
    index = gallery._index.get_index("embedding").faiss_index
    print(f"{type(index).__name__} of {len(faces):,} x {size}: made in {time.perf_counter() - start:.1f} s")
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(gallery.nearest_people(query, 1, -1.0)[0]["person"])
        times.append(time.perf_counter() - start)
    exact = people.take(pa.array((queries @ faces.T).argmax(1))).to_pylist()
    agree = np.mean([one == other for one, other in zip(found, exact, strict=True)])
    median, slowest = 1000 * np.median(times), 1000 * np.max(times)
    print(f"one query: {median:.1f} ms (median of {args.queries}), {slowest:.1f} ms at most; as exact: {agree:.1%}")


def measure_grouping(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    counts = np.minimum(rng.zipf(1.9, args.faces), 530)  # two thirds of LFW's people have one photograph
    counts = counts[: np.searchsorted(np.cumsum(counts), args.faces)]
    faces = make_faces(len(counts), counts, 128, rng)
    people = np.repeat(np.arange(len(counts)), counts)
    order = rng.permutation(len(faces))
    for threshold in (0.4317, 0.3694):  # SFace's at 1e-4 and 1e-3
        start = time.perf_counter()
        groups = group_embeddings(faces[order], threshold)
        seconds = time.perf_counter() - start
        scores = clustering_metrics(people[order], groups)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{len(faces):,} faces of {len(counts):,} people at {threshold}: {seconds:.1f} s, {groups.max():,} groups, "
            f"BCubed F {scores['bcubed_f']:.4f}, {peak:.1f} GB at most"
        )


def clusterings(threshold: float) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Methods that take cosine distances (N, N) and depend on a threshold."""
    for linkage in ("average", "complete"):
        yield (
            f"agglomerative, {linkage} linkage",
            AgglomerativeClustering(
                n_clusters=None, metric="precomputed", linkage=linkage, distance_threshold=1 - threshold
            ).fit_predict,
        )
    for least in (1, 3):
        name = "DBSCAN, min_samples=1 (single linkage)" if least == 1 else f"DBSCAN, min_samples={least}"
        yield name, DBSCAN(eps=1 - threshold, min_samples=least, metric="precomputed").fit_predict


def measure_clustering(args: argparse.Namespace) -> None:
    checkpoints = {"SFace": find_zoo_file(SFACE), "MobileFaceNet": args.data / "mobilefacenet_foamliu.safetensors"}
    for model_name, checkpoint in checkpoints.items():
        model, image_processor = convert_checkpoint(checkpoint)
        embedder = Embedder(model, image_processor, flip=False, num_workers=args.num_workers[0])
        sets = {}
        for split in ("validation", *(["train"] if args.train else [])):
            crops = load_dataset("parquet", data_files=str(args.data / f"lfw_112/{split}.parquet"), split="train")
            sets[f"{split} crops"] = embedder(crops, None).embeddings, np.array(crops["label"])
        embed = pipeline("face-embedding", model=model, image_processor=image_processor)
        files = sorted((args.data / "lfw_raw").glob("*.jpg"))
        faces = [embed(str(file), policy="center")[0]["embedding"] for file in tqdm(files, desc="lfw_raw")]
        sets["photographs"] = np.stack(faces), np.unique([file.stem[:-5] for file in files], return_inverse=True)[1]
        thresholds = impostor_quantiles(*sets["validation crops"])
        for name, (embeddings, people) in sets.items():
            compare_clusterings(f"{model_name}, {name}", embeddings, people, thresholds)


def impostor_quantiles(embeddings: np.ndarray, people: np.ndarray) -> dict[float, float]:
    first, second = np.triu_indices(len(people), 1)
    impostors = (embeddings @ embeddings.T)[first, second][people[first] != people[second]]
    return {far: float(np.quantile(impostors, 1 - far)) for far in FARS}


def compare_clusterings(title: str, embeddings: np.ndarray, people: np.ndarray, thresholds: dict[float, float]) -> None:
    print(f"\n{title}: {len(people):,} faces of {len(set(people)):,} people\n")
    print("| method | at FAR | BCubed F | pairwise F | groups |\n|---|---|---|---|---|")
    distances = np.clip(1 - embeddings @ embeddings.T, 0, 2).astype(np.float64)
    rows = [(name, f"{far:g}", fit) for far in FARS for name, fit in clusterings(thresholds[far])]
    hdbscan = HDBSCAN(min_cluster_size=2, metric="precomputed", copy=True)
    for name, far, fit in [*sorted(rows, key=lambda row: row[0]), ("HDBSCAN", "", hdbscan.fit_predict)]:
        groups = fit(distances)
        noise = groups < 0
        groups[noise] = groups.max() + 1 + np.arange(noise.sum())  # each alone
        scores = clustering_metrics(people, groups)
        f, pairwise = scores["bcubed_f"], scores["pairwise_f"]
        print(f"| {name} | {far} | {f:.4f} | {pairwise:.4f} | {len(set(groups)):,} |", flush=True)


def measure_embedding(args: argparse.Namespace) -> None:
    model, image_processor = convert_checkpoint(find_zoo_file(SFACE))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    images = Dataset.from_dict({"image": [encoded_crop()] * args.images}, Features({"image": Image()}))
    embedder = Embedder(model, image_processor, flip=False, progress=False)
    pixels = torch.randint(0, 256, (embedder.batch_size, 3, 112, 112), dtype=torch.uint8)
    batches = -(-args.images // embedder.batch_size)
    for num_workers in args.num_workers:
        embedder.num_workers = num_workers
        alone, written = [], []
        for _ in range(args.rounds):
            alone.append(images_per_second(args.images, partial(run_model, embedder, pixels, batches)))
            with tempfile.TemporaryDirectory() as folder:
                embed = partial(embed_to_parquet, embedder, images, Path(folder, "out"))
                written.append(images_per_second(args.images, embed))
        share = np.median(np.array(written) / np.array(alone))
        print(
            f"{num_workers} workers: {np.median(written):,.0f} images/s, the model alone {np.median(alone):,.0f}: "
            f"{share:.1%} (median of {args.rounds} rounds)"
        )


def run_model(embedder: Embedder, pixels: torch.Tensor, batches: int) -> None:
    with torch.no_grad():
        features = [embedder._forward(pixels) for _ in range(batches)]
    features[-1].cpu()  # waits for the device


def images_per_second(count: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def encoded_crop() -> dict:
    buffer = io.BytesIO()
    smooth = np.random.default_rng(0).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    PillowImage.fromarray(smooth).resize((112, 112)).save(buffer, "JPEG", quality=95)
    return {"bytes": buffer.getvalue(), "path": None}


PARTS = {
    "gallery": measure_gallery,
    "grouping": measure_grouping,
    "clustering": measure_clustering,
    "embedding": measure_embedding,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--photographs", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--faces", type=int, default=13_000)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of lfw_112 and lfw_raw")
    parser.add_argument("--train", action="store_true", help="also cluster the 6,703 training crops")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--num_workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for part in args.parts:
        PARTS[part](args)


if __name__ == "__main__":
    main()
