"""Mutants that no test can notice, and why: the one place for them."""

TEMPLATES = "hf_face/evaluation/templates.py"
ALL_PAIRS = "hf_face/evaluation/all_pairs.py"
RECORDIO = "hf_face/data/recordio.py"
LOW_RESOLUTION = "hf_face/data/augmentation/low_resolution.py"

UNIT_LENGTH = "a template is made unit length, whatever factor its sum has"
EITHER_WAY = "both ways give the same result; which one is taken matters to speed only"
HELD_OR_NOT = "a score that equals the lowest of the highest K may be held or not: K as high ones are held already"
MORE_OR_LESS_OFTEN = "how often the held scores are thinned out matters to memory only"
TAPS = "pixels around a sampled position: 3 before it, and all that are averaged"
NO_WEIGHT = "pixels further away have no weight"
UNUSED_MIRROR_IMAGES = "the embeddings of mirror images are not used; without them, it is faster"

# File, the line, what became of it, reason.
EQUIVALENT = (
    (
        TEMPLATES,
        "shares = torch.as_tensor(1.0 / group_sizes[groups]).to(features)",
        "shares = torch.as_tensor(2.0 / group_sizes[groups]).to(features)",
        UNIT_LENGTH,
    ),
    (
        TEMPLATES,
        'order = np.argsort(~leads, kind="stable")',
        'order = np.argsort(leads, kind="stable")',
        "the order of the grid's rows matters to its size only",
    ),
    (
        TEMPLATES,
        "columns = features[low : high + 1]",
        "columns = features[low : high + 2]",
        "a column more of the grid is not looked up",
    ),
    (
        ALL_PAIRS,
        "rows = scores[scores.amax(dim=1) > self._floor]",
        "rows = scores[scores.amax(dim=1) >= self._floor]",
        HELD_OR_NOT,
    ),
    (
        ALL_PAIRS,
        "self._held.append(rows[rows > self._floor])",
        "self._held.append(rows[rows >= self._floor])",
        HELD_OR_NOT,
    ),
    (
        ALL_PAIRS,
        "if sum(len(held) for held in self._held) > 2 * self.size:",
        "if sum(len(held) for held in self._held) >= 2 * self.size:",
        MORE_OR_LESS_OFTEN,
    ),
    (
        ALL_PAIRS,
        "return held.topk(self.size, sorted=False).values if len(held) > self.size else held",
        "return held.topk(self.size, sorted=False).values if len(held) >= self.size else held",
        "the highest K of K scores are all of them",
    ),
    (
        ALL_PAIRS,
        "return held.topk(self.size, sorted=False).values if len(held) > self.size else held",
        "return held.topk(self.size, sorted=True).values if len(held) > self.size else held",
        EITHER_WAY,
    ),
    (
        "hf_face/data/collator.py",
        "self._skipped[worker.id % MAX_WORKERS if worker else 0] += 1",
        "self._skipped[worker.id % MAX_WORKERS if worker else 1] += 1",
        "each process has a counter, and their sum is told",
    ),
    (
        RECORDIO,
        "self._map.madvise(mmap.MADV_DONTNEED, start, int(offsets.max()) - start)",
        "self._map.madvise(mmap.MADV_DONTNEED, start, int(offsets.max()) + start)",
        "pages that are released too early are read again",
    ),
    (
        "hf_face/data/columns.py",
        'embed_table_storage, batched=True, batch_size=FEW_ROWS, writer_batch_size=FEW_ROWS, desc="reading images"',
        'embed_table_storage, batched=False, batch_size=FEW_ROWS, writer_batch_size=FEW_ROWS, desc="reading images"',
        "rows that are read one by one make the same table, more slowly",
    ),
    (
        "hf_face/data/sources.py",
        "opened.seek(max(0, file.stat().st_size - tarfile.BLOCKSIZE))",
        "opened.seek(max(1, file.stat().st_size - tarfile.BLOCKSIZE))",
        "a file of a block or less is read through, or is a block of zeros, which reading through accepts too",
    ),
    (
        "hf_face/data/orl.py",
        'image.save(buffer, "PNG", compress_level=1)',
        'image.save(buffer, "PNG", compress_level=2)',
        "how well a lossless format compresses matters to size and speed only",
    ),
    (
        "hf_face/data/augmentation/draws.py",
        'return values.to(images.device, non_blocking=images.device.type != "mps")',
        'return values.to(images.device, non_blocking=images.device.type == "mps")',
        "without an accelerator, nothing can wait for one",
    ),
    *(
        (LOW_RESOLUTION, f"TAPS = torch.arange(-3, MAX_SHRINK + 1)  # {TAPS}", f"{taps}  # {TAPS}", NO_WEIGHT)
        for taps in ("TAPS = torch.arange(-4, MAX_SHRINK + 1)", "TAPS = torch.arange(-3, MAX_SHRINK + 2)")
    ),
    (
        LOW_RESOLUTION,
        "return positions, torch.where(scale >= 1, covered.clamp(min=0) / scale, blend)",
        "return positions, torch.where(scale > 1, covered.clamp(min=0) / scale, blend)",
        "both ways leave the size as it is",
    ),
    (
        "hf_face/data/augmentation/rand_augment.py",
        "strength = self.strengths[name][bins] * (signs if name in SIGNED else 1)",
        "strength = self.strengths[name][bins] / (signs if name in SIGNED else 1)",
        "a sign is 1 or -1",
    ),
    (
        LOW_RESOLUTION,
        "return torch.where(x <= 1, near, far)",
        "return torch.where(x < 1, near, far)",
        "both are zero at 1",
    ),
    ("hf_face/heads/head_files.py", "if start >= stop:", "if start > stop:", EITHER_WAY),
    (
        "hf_face/heads/margin_softmax.py",
        "NEVER = -1e30  # a logit with no effect on a softmax; minus infinity would give NaN if all logits have it",
        "NEVER = -1e+30  # a logit with no effect on a softmax; minus infinity would give NaN if all logits have it",
        "the same number",
    ),
    (
        "hf_face/models/alignment.py",
        "pixels = to_image.detach()[:, :, 0].norm(dim=1) - 1e-6  # of the image, in a pixel of the crop",
        "pixels = to_image.detach()[:, :, 1].norm(dim=1) - 1e-6  # of the image, in a pixel of the crop",
        "both columns of a similarity are equally long",
    ),
    (
        "hf_face/models/alignment.py",
        'at_once = CROPS_AT_ONCE_ON_CPU if device.type == "cpu" else CROPS_AT_ONCE',
        'at_once = CROPS_AT_ONCE_ON_CPU if device.type != "cpu" else CROPS_AT_ONCE',
        "how many crops are made at once matters to memory and speed only",
    ),
    (
        "hf_face/models/alignment.py",
        "shrunk = avg_pool2d(patches, factor) if factor > 1 else patches",
        "shrunk = avg_pool2d(patches, factor) if factor >= 1 else patches",
        EITHER_WAY,
    ),
    (
        "hf_face/models/alignment.py",
        'if isinstance(images, Tensor) and images.device.type != "cpu":',
        'if isinstance(images, Tensor) and images.device.type == "cpu":',
        EITHER_WAY,
    ),
    (
        "hf_face/models/alignment.py",
        "return avg_pool2d(sampled, samples) if samples > 1 else sampled",
        "return avg_pool2d(sampled, samples) if samples >= 1 else sampled",
        EITHER_WAY,
    ),
    (
        "hf_face/models/pipeline_face_embedding.py",
        'if self.device.type == "cpu":  # convolutions are faster this way',
        'if self.device.type != "cpu":  # convolutions are faster this way',
        EITHER_WAY,
    ),
    (
        "hf_face/models/face_detection.py",
        "if len(sizes) > 1 and len(rows):",
        "if len(sizes) >= 1 and len(rows):",
        "the faces of one copy were chosen by the same rule before",
    ),
    (
        "hf_face/models/families.py",
        "if issubclass(_config_class, FaceConfig) and issubclass(_model_class, FacePreTrainedModel):",
        "if issubclass(_config_class, FaceConfig) or issubclass(_model_class, FacePreTrainedModel):",
        "a configuration of face embeddings has a model of face embeddings; type checkers want both",
    ),
    (
        "hf_face/models/modeling_face.py",
        "pooler_output=torch.where(norm > 1e-12, raw / norm.clamp_min(1e-12), 0),",
        "pooler_output=torch.where(norm >= 1e-12, raw / norm.clamp_min(1e-12), 0),",
        "no embedding has exactly this length",
    ),
    (
        "hf_face/models/modeling_iresnet.py",
        "elif stride > 1:",
        "elif stride >= 1:",
        "the largest of one value is itself",
    ),
    (
        "hf_face/training/methods/identity_memory.py",
        "last = labels.new_full((len(self.vectors),), -1)",
        "last = labels.new_full((len(self.vectors),), -2)",
        "any row below 0 is missing",
    ),
    (
        "hf_face/training/methods/transface.py",
        "chosen = (torch.rand(batch_size, generator=self.generator) < self.probability).nonzero()[:, 0]",
        "chosen = (torch.rand(batch_size, generator=self.generator) <= self.probability).nonzero()[:, 0]",
        "one draw in 2^24 is the probability itself",
    ),
    (
        "hf_face/training/methods/transface.py",
        "if ratio < 1:",
        "if ratio <= 1:",
        EITHER_WAY,
    ),
    (
        "hf_face/training/methods/transface.py",
        "if ratio < 1:",
        "if ratio < 2:",
        EITHER_WAY,
    ),
    (
        "hf_face/training/divergence.py",
        "norm = grad_norm.to(losses) if isinstance(grad_norm, Tensor) else losses.new_full((), grad_norm or 0.0)",
        "norm = grad_norm.to(losses) if isinstance(grad_norm, Tensor) else losses.new_full((), grad_norm or 1.0)",
        "a norm that is not known is finite, and is not told",
    ),
    *(
        (
            "hf_face/training/divergence.py",
            "return loss * (1 + 0 * loss.detach())",
            after,
            "by 1 if finite, or else NaN",
        )
        for after in ("return loss / (1 + 0 * loss.detach())", "return loss * (1 - 0 * loss.detach())")
    ),
    (
        "hf_face/training/engine_weights.py",
        "part = whole.flatten()[size * rank : size * (rank + 1)]",
        "part = whole.flatten()[size * rank : size * (rank + 2)]",
        "padding to a size cuts off what is beyond it",
    ),
    (
        "hf_face/training/evaluating.py",
        "embeddings = build_embedder(trainer, flip=False).embed(dataset).embeddings",
        "embeddings = build_embedder(trainer, flip=True).embed(dataset).embeddings",
        UNUSED_MIRROR_IMAGES,
    ),
    (
        "hf_face/training/mean_centers.py",
        "embeddings = Embedder(model.backbone.eval(), image_processor, flip=False)(faces, None).embeddings  # (N, D)",
        "embeddings = Embedder(model.backbone.eval(), image_processor, flip=True)(faces, None).embeddings  # (N, D)",
        UNUSED_MIRROR_IMAGES,
    ),
    (
        "hf_face/training/recipe_card.py",
        "model, image_processor = build_model(model_args, num_identities=2)",
        "model, image_processor = build_model(model_args, num_identities=3)",
        "the card is that of the backbone, which has no identities",
    ),
)
