"""Checkpoints in the PURE layout with random weights, and the plainest reading of them. Names, sizes and rules are
those of the published code (arXiv 2010.12812). Of ReXKG, only the cutting of texts into words is used."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizerFast

from ReXKG.text import split_sentences, tokenize

TYPES = ["size", "anatomy", "disorder_present", "disorder_notpresent", "concept", "procedures", "devices_present",
         "devices_notpresent"]  # fmt: skip
RELATIONS = ["no_relation", "located_at", "suggestive_of", "modify"]
WORDS = [f"{a}{b}" for a in ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi") for b in ("ra", "te", "lo", "nu", "sy")]
PIECES = ["##s", "##ing", "##or", "/", ",", "-", "1", "2"]
MARKERS = {f"{role}={kind}": f"[unused{7 + 4 * i + j}]" for i, kind in enumerate(TYPES)
           for j, role in enumerate(("SUBJ_START", "OBJ_START", "SUBJ_END", "OBJ_END"))}  # fmt: skip


def write_checkpoint(root: Path, positions: int = 512) -> Path:
    """Write run_entity and run_relation into ``root``. About a third of the words are entities and about a third of the
    pairs are related."""
    torch.manual_seed(0)
    vocabulary = ["[PAD]", *(f"[unused{i}]" for i in range(1, 50)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary += [*WORDS, *PIECES]
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=64, max_position_embeddings=positions, initializer_range=0.2)  # fmt: skip

    def encoder():
        return {f"bert.{name}": value for name, value in BertModel(config).state_dict().items()}

    # The biases of both heads cancel what the weights of this seed favor, so that every type and relation occurs.
    widths = torch.randn(9, 150) * 0.1
    widths[:, 0] = torch.tensor([0, 0, 2.5, 3.5, 5, 8, 8, 8, 8])  # long spans are seldom entities
    first = torch.randn(150, 32 * 2 + 150) * 0.15
    first[0] = torch.eye(214)[64] * 3  # the first unit reads the width, and speaks for none
    second, last = torch.randn(150, 150) * 0.15, torch.randn(9, 150) * 0.2
    second[0] = torch.eye(150)[0]
    last[:, 0] = torch.eye(9)[0]
    entity = encoder() | {
        "width_embedding.weight": widths,
        "ner_classifier.0._linear_layers.0.weight": first,
        "ner_classifier.0._linear_layers.0.bias": torch.zeros(150),
        "ner_classifier.0._linear_layers.1.weight": second,
        "ner_classifier.0._linear_layers.1.bias": torch.zeros(150),
        "ner_classifier.1.weight": last,
        "ner_classifier.1.bias": torch.tensor([3.4, -1.3, -1.4, 0.4, -2.3, -4.5, 0.0, 1.9, 1.6]),
    }
    relation = encoder() | {
        "layer_norm.weight": torch.linspace(0.5, 1.5, 64),
        "layer_norm.bias": torch.linspace(-0.1, 0.1, 64),
        "classifier.weight": torch.randn(4, 64) * 0.4,
        "classifier.bias": torch.tensor([4.9, 2.6, 2.5, -5.0]),
    }
    for name, tensors in (("run_entity", entity), ("run_relation", relation)):
        write_model(root / name, config, vocabulary, tensors)
    (root / "run_relation" / "special_tokens.json").write_text(json.dumps(MARKERS))
    return root


def write_model(folder: Path, config: BertConfig, vocabulary: list[str], tensors: dict) -> None:
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")


def random_sentences(count: int, words: tuple[int, int] = (2, 9), seed: int = 0) -> list[str]:
    """Different sentences of known words, words of several pieces and words that the vocabulary lacks."""
    draw = random.Random(seed)
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        chosen = [draw.choice(WORDS) + draw.choice(["", "", "", "s", "ing", "-1", "ings"])
                  for _ in range(draw.randint(*words))]  # fmt: skip
        if draw.random() < 0.2:
            chosen[draw.randrange(len(chosen))] = draw.choice(["xyz", "1", "bara/cete", "2,"])
        sentences[" ".join(chosen)] = None
    return list(sentences)


class Naive:
    """Reads one sentence, one span and one pair at a time, every input alone and without padding."""

    def __init__(self, root: Path, markers: dict[str, str] | None = None) -> None:
        self.markers = MARKERS if markers is None else markers
        self.tokenizer = BertTokenizerFast.from_pretrained(root / "run_entity")
        self.entity, self.entity_bert = self._read(root / "run_entity")
        self.relation, self.relation_bert = self._read(root / "run_relation")

    @staticmethod
    def _read(folder: Path) -> tuple[dict, BertModel]:
        tensors = load_file(folder / "model.safetensors")
        bert = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False).eval()
        own = {name.removeprefix("bert."): value for name, value in tensors.items() if name.startswith("bert.")}
        bert.load_state_dict({name: value for name, value in own.items() if not name.startswith("pooler.")})
        return tensors, bert

    def __call__(self, texts: list[str]) -> list[dict]:
        graphs = []
        for number, text in enumerate(texts):
            words, entities, relations = [], {}, []
            for sentence in split_sentences(text):
                here = tokenize(sentence)
                if len(here) < 2:
                    continue
                words += here
                spans = self.entities(here)
                for start, end, kind in spans:
                    entities[" ".join(here[start : end + 1])] = kind
                for source in spans:
                    for target in spans:
                        if source != target and (kind := self.related(here, source, target)) != "no_relation":
                            first, second = (" ".join(here[start : end + 1]) for start, end, _ in (source, target))
                            relations.append({"source_entity": first, "target_entity": second, "type": kind})
            graphs.append({"sentences": " ".join(words), "entities": entities, "relations": relations,
                           "doc_key": str(number)})  # fmt: skip
        return graphs

    @torch.no_grad()
    def hidden(self, bert: BertModel, tokens: list[str]) -> torch.Tensor:
        ids = torch.tensor([self.tokenizer.convert_tokens_to_ids(tokens)])
        return bert(ids).last_hidden_state[0]

    def entities(self, words: list[str]) -> list[tuple[int, int, str]]:
        tokens, starts, ends = ["[CLS]"], [], []
        for word in words:
            starts.append(len(tokens))
            tokens += self.tokenizer.tokenize(word)
            ends.append(len(tokens) - 1)
        hidden = self.hidden(self.entity_bert, [*tokens, "[SEP]"])
        get = self.entity.__getitem__
        spans = []
        for i in range(len(words)):
            for j in range(i, min(i + 8, len(words))):
                x = torch.cat([hidden[starts[i]], hidden[ends[j]], get("width_embedding.weight")[j - i + 1]])
                for layer in (0, 1):
                    name = f"ner_classifier.0._linear_layers.{layer}"
                    x = torch.relu(get(f"{name}.weight") @ x + get(f"{name}.bias"))
                label = int((get("ner_classifier.1.weight") @ x + get("ner_classifier.1.bias")).argmax())
                if label:
                    spans.append((i, j, TYPES[label - 1]))
        return spans

    def related(self, words: list[str], source: tuple[int, int, str], target: tuple[int, int, str]) -> str:
        tokens, at = ["[CLS]"], {}
        for i, word in enumerate(words):
            for role, (start, _, kind) in (("SUBJ", source), ("OBJ", target)):
                if i == start:
                    at[role] = len(tokens)
                    tokens.append(self.markers[f"{role}_START={kind}"])
            tokens += self.tokenizer.tokenize(word)
            for role, (_, end, kind) in (("SUBJ", source), ("OBJ", target)):
                if i == end:
                    tokens.append(self.markers[f"{role}_END={kind}"])
        hidden = self.hidden(self.relation_bert, [*tokens, "[SEP]"])
        x = torch.cat([hidden[at["SUBJ"]], hidden[at["OBJ"]]])
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
        x = x * self.relation["layer_norm.weight"] + self.relation["layer_norm.bias"]
        return RELATIONS[int((self.relation["classifier.weight"] @ x + self.relation["classifier.bias"]).argmax())]
