"""Teaching the demo's vision tower to see, before it learns to speak.

The real model arrives with a tower that was trained on many images; one with random weights learns to see from report
text far too slowly for a demo. Here tower and projector are trained for half a minute to tell which facts hold of a
training film: each image token is asked for every fact, and the facts of a film are the log-sum-exp over its tokens.
A fact is asked for by the sum of the embeddings of its words, so that what the tower sees reaches the decoder as words
it can look up the way it looks up words of the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from swift.llm.checkpoint import save_policy
from swift.llm.image_processor import ProcessedImage, collate
from swift.llm.images import ImageSource, open_image
from swift.llm.model import load_policy
from swift.llm.policy import Policy
from tools.demo_world.facts import DEVICES, KINDS, SEXES, SIDES, VIEWS, Finding, Study

STEPS, BATCH, LEARNING_RATE, WARMUP = 400, 32, 2e-3, 0.15
RARE = -3.0  # a fact is absent until a token says otherwise


def pretrain_vision(folder: Path, studies: Sequence[Study], images: Path, seed: int = 0) -> None:
    """Train tower and projector of the policy in ``folder`` on ``studies``, whose films are in ``images``, and write
    the policy back."""
    policy = load_policy(folder)
    embed = policy.model.model.embed_tokens_extend.image_embed.requires_grad_(True)
    films = [policy.image_processor(open_image(ImageSource.from_path(images / f"{s.image_id}.png"))) for s in studies]
    vocabulary = fact_names()
    truth = torch.tensor([[float(name in facts_of(study)) for name in vocabulary] for study in studies])
    torch.manual_seed(seed)
    directions = word_directions(policy, vocabulary)
    bias = nn.Parameter(torch.full((len(vocabulary),), RARE))
    parameters = [*embed.parameters(), bias]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=WARMUP)
    generator = np.random.default_rng(seed)
    progress = tqdm(range(STEPS), desc="vision", unit="step")
    for _ in progress:
        rows = generator.integers(0, len(films), BATCH)
        tokens = image_tokens(embed, [films[row] for row in rows])
        facts = (tokens @ directions.T + bias).logsumexp(dim=1)
        loss = nn.functional.binary_cross_entropy_with_logits(facts, truth[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    policy.model.requires_grad_(True)  # so that a full folder is written
    save_policy(policy, folder)


@torch.no_grad()
def word_directions(policy: Policy, facts: Sequence[tuple[str, ...]]) -> Tensor:
    """For each fact the unit vector along the sum of its words' embeddings, [facts, width]."""
    embedding = policy.model.get_input_embeddings().weight
    words = [policy.tokenizer.encode(f" {' '.join(fact)}") for fact in facts]
    return torch.stack([nn.functional.normalize(embedding[ids].sum(dim=0), dim=0) for ids in words])


def image_tokens(embed: nn.Module, films: list[ProcessedImage]) -> Tensor:
    """What the decoder gets to see of each film, [n, tokens, width], scaled to unit mean square as its first norm does.
    All films must take the same number of tokens."""
    count, width = films[0].num_tokens, embed.img_projection_down.out_features
    ids = torch.full((len(films), count), embed.config.vision_config.image_token_id)
    tokens = embed(ids, torch.zeros(len(films), count, width), **collate(films))
    return nn.functional.rms_norm(tokens, (width,), eps=1e-5)


def fact_names() -> list[tuple[str, ...]]:
    """Every fact that may hold of a study: a finding, its place, its severity, a device, the view, the sex."""
    names: list[tuple[str, ...]] = [(word,) for word in (*DEVICES, *VIEWS, *SEXES)]
    for kind in KINDS.values():
        for side in SIDES if kind.sided else (None,):
            for zone in kind.zones or (None,):
                names += _facts_of_finding(Finding(kind.name, side, zone))
        names += [(kind.name, severity) for severity in kind.severities]
    return list(dict.fromkeys(names))


def facts_of(study: Study) -> set[tuple[str, ...]]:
    """The facts that hold of a study."""
    found = {(word,) for word in (*study.devices, study.view, study.sex)}
    for finding in study.findings:
        found.update(_facts_of_finding(finding))
        if finding.severity:
            found.add((finding.kind, finding.severity))
    return found


def _facts_of_finding(finding: Finding) -> list[tuple[str, ...]]:
    facts = [(finding.kind,)]
    if finding.side:
        facts.append((finding.kind, finding.side))
        if finding.zone:
            facts.append((finding.kind, finding.side, finding.zone))
    return facts
