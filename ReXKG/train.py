"""Train the neural extractor's models on annotated sentences (PURE JSON lines, see ReXKG/neural/annotations.py):

    python -m ReXKG.train entity   --train train.jsonl --dev dev.jsonl --encoder BERT --output_dir kg/run_entity
    python -m ReXKG.train relation --train train.jsonl --dev dev.jsonl --encoder BERT --output_dir kg/run_relation
    REXKG_DIR=kg REXKG_EXTRACTOR=neural ...

BERT is the folder of any BERT-type encoder. `python -m ReXKG.train encoder` makes a small one with random weights. The
output folder loads as a PURE checkpoint. Its train_report.json holds arguments, versions and scores.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ReXKG.neural.agreement import format_agreement
from ReXKG.neural.annotations import AnnotatedSentence, read_annotations
from ReXKG.neural.checkpoint import load_encoder, load_model, read_config, save_json, save_model
from ReXKG.neural.encoder import write_encoder
from ReXKG.neural.entity.model import EntityModel
from ReXKG.neural.entity.reader import EntityReader
from ReXKG.neural.entity.task import EntityTask
from ReXKG.neural.fit import FitSettings, FitTask, fit
from ReXKG.neural.folders import WEIGHT_FILES
from ReXKG.neural.pieces import WordPieces
from ReXKG.neural.relation.markers import read_markers, write_markers
from ReXKG.neural.relation.model import RelationModel
from ReXKG.neural.relation.reader import RelationReader
from ReXKG.neural.relation.task import RelationTask
from ReXKG.terminal import printable

REPORT = "train_report.json"

Scorer = Callable[[list[AnnotatedSentence]], dict[str, Any]]  # sentences to `ReXKG.neural.agreement.agreement`


def train_entity(args: argparse.Namespace) -> None:
    """Train an entity model into ``args.output_dir``."""
    settings = _settings(args)
    data, model, pieces = _prepare(args, EntityModel)
    task = EntityTask(EntityReader(model, pieces, args.device))
    _train(args, settings, task, data, {"": task.score})


def train_relation(args: argparse.Namespace) -> None:
    """Train a relation model into ``args.output_dir``. With ``args.entity_dir``, score it on predicted entities too."""
    settings = _settings(args)
    entities = _entity_reader(args.entity_dir, args.device) if args.entity_dir else None
    data, model, pieces = _prepare(args, RelationModel)
    write_markers(args.output_dir, pieces)
    task = RelationTask(RelationReader(model, pieces, read_markers(args.output_dir, pieces), args.device))
    scorers: dict[str, Scorer] = {"": task.score}
    if entities:
        scorers["_end_to_end"] = lambda sentences: task.score(sentences, entities)
    _train(args, settings, task, data, scorers)


def make_encoder(args: argparse.Namespace) -> None:
    """Make a random encoder in ``args.output``."""
    _begin(args.output)
    sentences = [sentence for path in args.annotations for sentence in read_annotations(path)]
    write_encoder(args.output, sentences, args.hidden_size, args.layers, args.heads, args.vocabulary, args.seed)


def _prepare(
    args: argparse.Namespace, kind: type[EntityModel | RelationModel]
) -> tuple[dict[str, list[AnnotatedSentence]], EntityModel | RelationModel, WordPieces]:
    """Annotated sentences by "train", "dev" and "test", a model on the encoder, and its word-pieces. Writes everything
    but the weights to the output folder."""
    _begin(args.output_dir)
    data = {role: read_annotations(path) for role in ("train", "dev", "test") if (path := getattr(args, role))}
    config = read_config(args.encoder)
    pieces = WordPieces.read((args.encoder,), config.vocab_size)
    torch.manual_seed(args.seed)
    model = kind(config)
    load_encoder(model.bert, args.encoder)
    save_json(config.to_dict(), args.output_dir / "config.json")
    pieces.save(args.output_dir)
    return data, model, pieces


def _settings(args: argparse.Namespace) -> FitSettings:
    return FitSettings(**{name: getattr(args, name) for name in FitSettings.__dataclass_fields__})


def _train(
    args: argparse.Namespace,
    settings: FitSettings,
    task: FitTask,
    data: dict[str, list[AnnotatedSentence]],
    scorers: dict[str, Scorer],
) -> None:
    """Fit, go back to the best epoch, score it on the held-out sets, print the tables and write the report. ``scorers``
    are named by what they add to the name of a set in the report."""
    history = fit(task, data["train"], data["dev"], settings, save=lambda: save_model(task.model, args.output_dir))
    load_model(task.model, args.output_dir)
    results = {
        f"{role}{suffix}": scorer(data[role])
        for role in ("dev", "test")
        if role in data
        for suffix, scorer in scorers.items()
    }
    report = {
        "task": args.task,
        "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in _plain(args).items()},
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
        },
        "sentences": {role: len(sentences) for role, sentences in data.items()},
        "epochs": history,
        "best_epoch": max(history, key=lambda epoch: (epoch["dev_f1"], epoch["epoch"]))["epoch"],
        **results,
    }
    save_json(report, args.output_dir / REPORT)
    for name, result in results.items():
        print(format_agreement(f"{args.task}, {name.replace('_', ' ')}", result))
    print(f"best of {len(history)} epochs: {report['best_epoch']}; saved in {args.output_dir}")


def _plain(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(args).items() if name not in ("task", "run")}


def _entity_reader(folder: Path, device: str) -> EntityReader:
    model = EntityModel.read(folder)
    return EntityReader(model, WordPieces.read((folder,), model.bert.config.vocab_size), device)


def _begin(folder: Path) -> None:
    """Make the output folder. Raises ValueError if it holds a model or cannot be written to, before much is done."""
    if not str(folder).strip() or "\0" in str(folder):
        raise ValueError(f"{str(folder)!r} is not the name of a folder; give one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise ValueError(f"nothing can be written to {folder} ({error.strerror}); name another folder") from error
    if any((folder / name).exists() for name in WEIGHT_FILES):
        raise ValueError(f"{folder} already holds a model; name another folder, or remove it first")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags of the command. ``run`` is the function to call with them."""
    parser = argparse.ArgumentParser(
        prog="python -m ReXKG.train",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="entity|relation|encoder")
    entity = tasks.add_parser("entity", help="train the entity model", allow_abbrev=False)
    _add_training_flags(entity)
    entity.set_defaults(run=train_entity)
    relation = tasks.add_parser("relation", help="train the relation model", allow_abbrev=False)
    _add_training_flags(relation)
    relation.add_argument(
        "--entity_dir",
        type=Path,
        metavar="PATH",
        help="folder of a trained entity model; also score on the entities that it predicts (end to end)",
    )
    relation.set_defaults(run=train_relation)
    encoder = tasks.add_parser("encoder", help="make a small random encoder", allow_abbrev=False)
    encoder.add_argument("--annotations", type=Path, nargs="+", required=True, metavar="PATH",
                         help="annotated sentences whose words make the vocabulary")  # fmt: skip
    encoder.add_argument("--output", type=Path, required=True, metavar="PATH", help="folder to write")
    for name, default, text in (
        ("hidden_size", 128, "width of the encoder"),
        ("layers", 2, "number of layers"),
        ("heads", 4, "attention heads per layer"),
        ("vocabulary", 2000, "maximum size of the vocabulary; characters are never left out"),
        ("seed", 0, "seed of the weights"),
    ):
        encoder.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} ({default})")
    encoder.set_defaults(run=make_encoder)
    return parser.parse_args(argv)


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data and folders")
    for name, required, text in (
        ("train", True, "annotated sentences to train on"),
        ("dev", True, "annotated sentences that decide when to stop"),
        ("test", False, "annotated sentences to score the best model on"),
        ("encoder", True, "folder of a BERT-type encoder"),
        ("output_dir", True, "folder to write"),
    ):
        data.add_argument(f"--{name}", type=Path, required=required, metavar="PATH", help=text)
    training = parser.add_argument_group("training")
    for name, text in (
        ("epochs", "maximum number of epochs"),
        ("patience", "epochs without a better F1 on --dev after which training stops"),
        ("learning_rate", "peak learning rate of the encoder; 1e-3 suits one with random weights"),
        ("head_learning_rate", "peak learning rate of the layers on top of the encoder"),
        ("batch_tokens", "padded word-pieces per batch"),
        ("warmup", "share of the steps in which the learning rates rise"),
        ("seed", "seed of weights, dropout and order"),
    ):
        default = getattr(FitSettings(), name)
        training.add_argument(f"--{name}", type=type(default), default=default, metavar="N", help=f"{text} ({default})")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    training.add_argument("--device", type=_device, default=device, help=f"a torch device ({device})")


def _device(name: str) -> str:
    """The name of a device that this machine has."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{name!r} is not a device of this machine") from error
    return name


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns 0, 2 with one line on stderr for a wrong file, disk or flag, or 130 after Ctrl-C."""
    args = parse_arguments(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("chex").setLevel(logging.INFO)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; the output folder holds the best finished epoch, if there was one", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
