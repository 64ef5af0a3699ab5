"""Pretraining of the demo's policy: its tower learns to see, and its decoder to report what the tower sees.

The real model has a tower and a decoder that were trained at length. Random weights learn from questions far too slowly
for a demo. Two short trainings on the films of the training patients take that place:

1. Tower and projector learn which facts hold of a film. Each image token is asked for every fact, and the facts of a
   film are the log-sum-exp over its tokens. The query for a fact is the sum of the embeddings of its words. So the
   decoder receives what the tower sees as words, and can look them up as it looks up words of a question.
2. The whole policy learns to fill in structured reports. Every line has to be looked up in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from swift.engine.batch import collate_completions, collate_prompts
from swift.engine.logprobs import completion_logprobs
from swift.llm.checkpoint.load import load_policy
from swift.llm.checkpoint.save import save_policy
from swift.llm.dataset import Record
from swift.llm.images.dynamic_hd import ProcessedImage, collate
from swift.llm.images.source import ImageSource
from swift.llm.policy import Policy
from swift.llm.template.phi4 import Phi4Template
from swift.llm.template.protocol import EncodedPrompt
from tools.demo_world.facts import DEVICES, FINDING_KINDS, SEXES, SIDES, VIEWS, Finding, Study
from tools.demo_world.reports import report_of

RARE = -3.0  # a fact is absent until a token says otherwise


def pretrain(folder: Path, studies: Sequence[Study], images: Path, seed: int = 0) -> None:
    """Train the policy in ``folder`` on ``studies``, whose films are in ``images``, and write it back."""
    policy = load_policy(folder)
    policy.model.requires_grad_(True)  # also so that a full folder is written
    template = Phi4Template(policy.tokenizer, policy.image_processor, policy.model.config.vision_config.image_token_id)
    asked = ({"role": "user", "content": ""},)
    films = [
        template.encode_prompt(
            Record((ImageSource.from_path(images / f"{s.image_id}.png"),), asked, None, {}, s.image_id)
        )
        for s in studies
    ]
    torch.manual_seed(seed)
    learn_to_see(policy, studies, films, np.random.default_rng([seed, 1]))
    learn_to_report(policy, template, studies, films, np.random.default_rng([seed, 2]))
    save_policy(policy, folder)


def learn_to_see(
    policy: Policy, studies: Sequence[Study], films: Sequence[EncodedPrompt], generator: np.random.Generator
) -> None:
    """The first training: facts from image tokens."""
    embed = policy.model.model.embed_tokens_extend.image_embed
    vocabulary = fact_names()
    truth = torch.tensor([[float(name in facts_of(study)) for name in vocabulary] for study in studies])
    directions = word_directions(policy, vocabulary)
    bias = nn.Parameter(torch.full((len(vocabulary),), RARE))

    def loss() -> Tensor:
        rows = generator.integers(0, len(films), 32)
        tokens = image_tokens(embed, [films[row].images[0] for row in rows])
        logits = (tokens @ directions.T + bias).logsumexp(dim=1)
        return nn.functional.binary_cross_entropy_with_logits(logits, truth[rows])

    optimize("seeing", loss, [*embed.parameters(), bias], steps=400, learning_rate=2e-3, weight_decay=0.05)


def learn_to_report(
    policy: Policy,
    template: Phi4Template,
    studies: Sequence[Study],
    films: Sequence[EncodedPrompt],
    generator: np.random.Generator,
) -> None:
    """The second training: structured reports. The loss counts the tokens that are filled in."""

    def loss() -> Tensor:
        rows = generator.integers(0, len(films), 8)
        texts = [encode_report(template, report_of(studies[row], generator)) for row in rows]
        prompts = collate_prompts([films[row] for row in rows], template.pad_token_id)
        completions = collate_completions([ids for ids, _ in texts], template.pad_token_id)
        learned = torch.zeros(completions.ids.shape)
        for row, (_, flags) in enumerate(texts):
            learned[row, : len(flags)] = torch.tensor(flags)
        logps = completion_logprobs(policy.model, prompts, completions, packed=False).logps
        return -(logps * learned).sum() / learned.sum()

    parameters = list(policy.model.parameters())
    optimize("reporting", loss, parameters, steps=520, learning_rate=1e-3, weight_decay=0.01)


def optimize(
    name: str,
    loss_of_batch: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Train with AdamW over a one-cycle schedule."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    progress = tqdm(range(steps), desc=name, unit="step")
    for _ in progress:
        loss = loss_of_batch()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)


def encode_report(template: Phi4Template, lines: Iterable[tuple[str, str]]) -> tuple[list[int], list[float]]:
    """Token ids of a report, and weights: 1.0 for tokens that are filled in, 0.0 for those of the form."""
    ids: list[int] = []
    learned: list[float] = []
    for given, filled in lines:
        for text, weight in ((given, 0.0), (filled, 1.0)):
            tokens = template.encode_completion(f" {text}")[:-1]
            ids += tokens
            learned += [weight] * len(tokens)
    return ids, learned


@torch.no_grad()
def word_directions(policy: Policy, facts: Sequence[tuple[str, ...]]) -> Tensor:
    """For each fact, the unit vector along the sum of its words' embeddings, [facts, width]."""
    embedding = policy.model.get_input_embeddings().weight
    words = [policy.tokenizer.encode(f" {' '.join(fact)}") for fact in facts]
    return torch.stack([nn.functional.normalize(embedding[ids].sum(dim=0), dim=0) for ids in words])


def image_tokens(embed: nn.Module, films: list[ProcessedImage]) -> Tensor:
    """The image tokens of each film as the decoder receives them, [n, tokens, width], scaled to unit mean square as its
    first norm does. All films must have the same number of tokens."""
    count, width = films[0].num_tokens, embed.img_projection_down.out_features
    ids = torch.full((len(films), count), embed.config.vision_config.image_token_id)
    tokens = embed(ids, torch.zeros(len(films), count, width), **collate(films))
    return nn.functional.rms_norm(tokens, (width,), eps=1e-5)


def fact_names() -> list[tuple[str, ...]]:
    """Every fact that may hold of a study: a finding, its place, its severity, a device, the view, the sex."""
    names: list[tuple[str, ...]] = [(word,) for word in (*DEVICES, *VIEWS, *SEXES)]
    for kind in FINDING_KINDS.values():
        for side in SIDES if kind.sided else (None,):
            for zone in kind.zones or (None,):
                names += _facts_of_finding(Finding(kind.name, side, zone))
        names += [(kind.name, severity) for severity in kind.severities]
    return list(dict.fromkeys(names))


def facts_of(study: Study) -> set[tuple[str, ...]]:
    """The facts that hold of a study."""
    facts = {(word,) for word in (*study.devices, study.view, study.sex)}
    for finding in study.findings:
        facts.update(_facts_of_finding(finding))
        if finding.severity:
            facts.add((finding.kind, finding.severity))
    return facts


def _facts_of_finding(finding: Finding) -> list[tuple[str, ...]]:
    facts = [(finding.kind,)]
    if finding.side:
        facts.append((finding.kind, finding.side))
        if finding.zone:
            facts.append((finding.kind, finding.side, finding.zone))
    return facts
