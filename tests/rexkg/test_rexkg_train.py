"""Training of the neural models: reading of annotations, scoring, early stopping, and equality of the saved and the
trained model."""

import json
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from ReXKG.lexicon.extractor import LexiconExtractor
from ReXKG.neural.agreement import agreement, format_agreement
from ReXKG.neural.annotations import AnnotatedSentence, document, read_annotations
from ReXKG.neural.encoder import write_encoder
from ReXKG.neural.entity.model import EntityModel
from ReXKG.neural.extractor import NeuralExtractor
from ReXKG.neural.fit import FitSettings, fit
from ReXKG.neural.folders import find_models
from ReXKG.neural.mentions import Mention, Relation
from ReXKG.neural.relation.reader import Pair
from ReXKG.train import main
from tools.demo_world.dataset import WorldConfig
from tools.demo_world.kg_annotations import annotate, write_annotations

SMALL, EFFUSION = Mention(0, 0, "concept"), Mention(1, 2, "disorder_present")
SENTENCE = AnnotatedSentence(
    ("small", "pleural", "effusion"), (SMALL, EFFUSION), (Relation(SMALL, EFFUSION, "modify"),)
)
WORLD = WorldConfig(patients=(300, 80, 40), eval_questions=100)
FAST = ["--learning_rate", "3e-3", "--head_learning_rate", "3e-3", "--batch_tokens", "400", "--patience", "10"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Annotations of the demo world and a small encoder."""
    folder = tmp_path_factory.mktemp("annotations")
    write_annotations(folder, WORLD)
    write_encoder(folder / "bert", read_annotations(folder / "train.jsonl"), hidden_size=64, layers=1)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Both models after a few seconds of training."""
    root = tmp_path_factory.mktemp("models")
    for task, train, epochs, more in (
        ("entity", "train", "10", []),
        ("relation", "dev", "12", ["--entity_dir", str(root / "run_entity")]),
    ):
        files = ["--train", data / f"{train}.jsonl", "--dev", data / "dev.jsonl", "--test", data / "test.jsonl"]
        folders = ["--encoder", data / "bert", "--output_dir", root / f"run_{task}"]
        assert main([task, *map(str, files + folders), *FAST, "--epochs", epochs, *more]) == 0
    return root


def report(folder):
    return json.loads((folder / "train_report.json").read_text(encoding="utf-8"))


def write(path, *documents):
    path.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    return path


def test_words_are_counted_through_the_document_in_files_and_through_the_sentence_in_memory(tmp_path):
    written = document("d", [SENTENCE, SENTENCE])
    assert written["ner"][1] == [[3, 3, "concept"], [4, 5, "disorder_present"]]
    assert written["relations"][1] == [[3, 3, 4, 5, "modify"]]
    assert read_annotations(write(tmp_path / "a.jsonl", written, written)) == [SENTENCE] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentences": None}, "field 'sentences' is not a list"),
        ({"relations": [[], []]}, "relations has 2 lists for 1 sentences"),
        ({"sentences": ["small effusion"]}, r"sentences\[0\] is not a list of words"),
        ({"ner": [7]}, r"ner\[0\] is not a list"),
        ({"ner": [[[0, 0]]]}, r"ner\[0\]\[0\]: \[0, 0\] is not \[start, end, type\]"),
        ({"ner": [[[0, True, "concept"]]]}, r"ner\[0\]\[0\]: .* is not \[start, end, type\]"),
        ({"ner": [[[0, 3, "concept"]]]}, r"ner\[0\]\[0\]: words 0 to 3 are not in their sentence, which has 0 to 2"),
        ({"ner": [[[2, 1, "concept"]]]}, r"words 2 to 1 are not in their sentence"),
        ({"ner": [[[0, 0, "finding"]]]}, "type 'finding' is unknown; use one of size"),
        ({"ner": [[[0, 0, "size"], [0, 0, "concept"]]]}, r"ner\[0\]\[1\]: words 0 to 0 are listed twice"),
        ({"relations": [[[0, 0, 1, 1, "modify"]]]}, r"relations\[0\]\[0\]: words 1 to 1 are not in ner"),
        ({"relations": [[[0, 0, 1, 2, "causes"]]]}, r"relations\[0\]\[0\]: type 'causes' is unknown"),
        ({"relations": [[[0, 0, 0, 0, "modify"]]]}, "an entity to itself"),
    ],
)
def test_a_wrong_annotation_is_named_by_file_line_and_field(tmp_path, change, message):
    path = write(tmp_path / "bad.jsonl", document("d", [SENTENCE]), document("d", [SENTENCE]) | change)
    with pytest.raises(ValueError, match=rf"bad\.jsonl, line 2: .*{message}"):
        read_annotations(path)


def test_files_that_are_not_json_lines_are_named(tmp_path):
    (tmp_path / "bad.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 1: not JSON"):
        read_annotations(tmp_path / "bad.jsonl")
    with pytest.raises(ValueError, match=r"none\.jsonl: cannot be read"):
        read_annotations(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.jsonl: holds no sentence"):
        read_annotations(tmp_path / "empty.jsonl")


def test_agreement_counts_span_and_type_sentence_by_sentence():
    a, b, c = Mention(0, 0, "size"), Mention(1, 1, "size"), Mention(2, 2, "anatomy")
    scores = agreement([[a, c], [a]], [[a, b], []], ["size", "anatomy", "concept"])
    # predicted 3, annotated 2, right 1 (the first a): P 1/3, R 1/2, F1 2*1/(3+2)
    assert scores["precision"] == pytest.approx(1 / 3)
    assert scores["recall"] == pytest.approx(1 / 2)
    assert scores["f1"] == pytest.approx(2 / 5)
    assert scores["labels"]["size"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "gold": 2}
    assert scores["labels"]["anatomy"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "gold": 0}
    assert "concept" not in scores["labels"]
    assert "0.400" in format_agreement("entity", scores)


def test_a_relation_needs_the_right_types_at_both_ends():
    right = Relation(SMALL, EFFUSION, "modify")
    for wrong in (
        right._replace(label="located_at"),
        Relation(SMALL, EFFUSION._replace(label="anatomy"), "modify"),
        Relation(EFFUSION, SMALL, "modify"),
    ):
        assert agreement([[wrong]], [[right]], ["modify"])["f1"] == 0.0
    assert agreement([[right]], [[right]], ["modify"])["f1"] == 1.0


def test_demo_annotations_are_the_lexicons_graphs_with_places():
    extractor = LexiconExtractor()
    for text in (
        "there is a small left pleural effusion",
        "no left or right pleural effusion is seen in the left lung",
        "the left heart is enlarged with a 2.5 cm nodule in the left lower lobe , likely cancer",
        "the tube has been removed",
    ):
        words = text.split()
        annotated = annotate(words, extractor)
        graph = extractor([text])[0]
        texts = {mention: " ".join(words[mention.start : mention.end + 1]) for mention in annotated.mentions}
        assert {text: mention.label for mention, text in texts.items()} == graph["entities"]
        triples = {(texts[relation.source], texts[relation.target], relation.label) for relation in annotated.relations}
        wanted = {tuple(relation.values()) for relation in graph["relations"]}
        assert {triple for triple in triples if triple[0] != triple[1]} == wanted


def test_demo_annotations_share_no_sentence_and_are_the_same_each_time(data, tmp_path):
    write_annotations(tmp_path, WORLD)
    seen = []
    for name in ("train", "dev", "test"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (data / f"{name}.jsonl").read_bytes()
        seen += [sentence.words for sentence in read_annotations(data / f"{name}.jsonl")]
    assert len(seen) == len(set(seen)) > 400


def test_training_learns_and_reports(trained):
    entity, relation = report(trained / "run_entity"), report(trained / "run_relation")
    assert entity["test"]["f1"] > 0.75
    assert relation["test"]["f1"] > 0.6
    assert 0.4 < relation["test_end_to_end"]["f1"] <= relation["test"]["f1"]
    assert set(entity["test"]["labels"]) >= {"anatomy", "concept", "disorder_notpresent"}
    assert entity["sentences"]["train"] > entity["sentences"]["test"] > 60
    assert entity["arguments"]["seed"] == 0
    assert set(entity["versions"]) == {"python", "torch", "transformers", "tokenizers"}


def test_what_is_saved_is_the_best_epoch(trained):
    for task in ("entity", "relation"):
        written = report(trained / f"run_{task}")
        best = max(epoch["dev_f1"] for epoch in written["epochs"])
        assert written["dev"]["f1"] == best
        assert written["epochs"][written["best_epoch"] - 1]["dev_f1"] == best


def test_the_extractor_reads_what_was_trained(trained, data):
    extractor = NeuralExtractor(find_models(trained), "cpu")
    sentences = read_annotations(data / "test.jsonl")
    graphs = extractor([" ".join(sentence.words) for sentence in sentences])
    right = sum(
        graph["entities"].get(" ".join(sentence.words[mention.start : mention.end + 1])) == mention.label
        for graph, sentence in zip(graphs, sentences, strict=True)
        for mention in sentence.mentions
    )
    assert right / sum(len(sentence.mentions) for sentence in sentences) > 0.75
    assert any(graph["relations"] for graph in graphs)
    markers = json.loads((trained / "run_relation" / "special_tokens.json").read_text())
    assert len(set(markers.values())) == 32


class Scripted:
    """A task whose development F1 is fixed beforehand."""

    def __init__(self, scores):
        self.model = torch.nn.Sequential(OrderedDict(bert=torch.nn.Linear(1, 1), head=torch.nn.Linear(1, 1)))
        self.scores, self.scored = scores, 0

    def examples(self, sentences):
        return [Pair(0, SMALL, EFFUSION, [1], (0, 0))]

    def loss(self, batch):
        return self.model(torch.ones(1)).sum()

    def score(self, sentences):
        self.scored += 1
        return {"f1": self.scores[self.scored - 1]}


@pytest.mark.parametrize(
    ("scores", "saved", "epochs"),
    [
        ([0.2, 0.5, 0.4, 0.3, 0.9], [1, 2], 4),  # two epochs are no better than the second, so training ends
        ([0.2, 0.5, 0.4, 0.6, 0.5], [1, 2, 4], 5),  # one worse epoch is allowed, and then the epochs run out
        ([0.5, 0.5, 0.5, 0.5], [1, 2, 3], 3),  # an equal score is saved, but is not a reason to continue
    ],
)
def test_the_best_epoch_is_saved_and_patience_runs_out(scores, saved, epochs):
    task, calls = Scripted(scores), []
    history = fit(task, [], [], FitSettings(epochs=len(scores), patience=2), save=lambda: calls.append(task.scored))
    assert calls == saved
    assert [entry["dev_f1"] for entry in history] == scores[:epochs]


def test_training_stops_when_it_gets_no_better(data, tmp_path):
    files = ["--train", data / "dev.jsonl", "--dev", data / "dev.jsonl", "--encoder", data / "bert"]
    settings = [
        "--learning_rate",
        "0",
        "--head_learning_rate",
        "0",
        "--patience",
        "2",
        "--output_dir",
        tmp_path / "out",
    ]
    assert main(["entity", *map(str, files + settings)]) == 0
    # the first epoch is the best so far, the next two are no better
    assert len(report(tmp_path / "out")["epochs"]) == 3


def test_equal_seeds_give_equal_weights(data, tmp_path):
    files = ["--train", data / "dev.jsonl", "--dev", data / "dev.jsonl", "--encoder", data / "bert", "--epochs", "1"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(["entity", *map(str, [*files, "--seed", seed, "--output_dir", tmp_path / name])]) == 0
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["ner_classifier.1.weight"], c["ner_classifier.1.weight"])


def fails(capsys, *words):
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_a_model_is_never_overwritten(trained, data, capsys):
    files = ["--train", data / "dev.jsonl", "--dev", data / "dev.jsonl", "--encoder", data / "bert"]
    assert "already holds a model" in fails(capsys, "entity", *files, "--output_dir", trained / "run_entity")
    assert "already holds a model" in fails(
        capsys, "encoder", "--annotations", data / "dev.jsonl", "--output", data / "bert"
    )


def test_settings_that_cannot_train_are_refused_before_anything_is_written(data, tmp_path, capsys):
    files = ["--train", data / "dev.jsonl", "--dev", data / "dev.jsonl", "--encoder", data / "bert"]
    out = ["--output_dir", tmp_path / "out"]
    assert "--epochs 0: give 1 or more" in fails(capsys, "entity", *files, *out, "--epochs", "0")
    with pytest.raises(SystemExit):
        main(["entity", *map(str, files + out), "--device", "abacus"])
    assert "'abacus' is not a device of this machine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_relation_training_needs_markers_and_pairs(data, tmp_path, capsys):
    files = ["--train", data / "dev.jsonl", "--dev", data / "dev.jsonl"]
    bare = tmp_path / "bare"
    write_encoder(bare, [SENTENCE], hidden_size=8, layers=1, heads=2)
    entries = (bare / "vocab.txt").read_text().replace("[unused", "[taken")
    (bare / "vocab.txt").write_text(entries)
    out = ["--encoder", bare, "--output_dir", tmp_path / "out"]
    assert "lacks [unused1]" in fails(capsys, "relation", *files, *out)
    alone = write(tmp_path / "alone.jsonl", document("d", [AnnotatedSentence(SENTENCE.words, (SMALL,), ())]))
    out = ["--encoder", data / "bert", "--output_dir", tmp_path / "out2"]
    assert "no pair of entities" in fails(capsys, "relation", "--train", alone, "--dev", alone, *out)


def test_an_encoder_may_be_saved_bare_or_within_a_model_with_old_or_new_names(data, tmp_path, capsys):
    tensors = load_file(data / "bert" / "model.safetensors")
    saved = tmp_path / "old"
    write_encoder(saved, read_annotations(data / "dev.jsonl"), hidden_size=64, layers=1)
    for name in ("vocab.txt", "config.json"):
        (saved / name).write_bytes((data / "bert" / name).read_bytes())
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in tensors.items()}
    save_file(old | {"cls.predictions.bias": torch.zeros(2)}, saved / "model.safetensors")
    files = ["--train", data / "dev.jsonl", "--dev", data / "dev.jsonl", "--learning_rate", "0", "--epochs", "1"]
    assert main(["entity", *map(str, [*files, "--encoder", saved, "--output_dir", tmp_path / "out"])]) == 0
    model = EntityModel.read(tmp_path / "out").bert.state_dict()
    assert all(torch.equal(model[name], value) for name, value in tensors.items())
    del old["bert.embeddings.LayerNorm.gamma"]
    save_file(old, saved / "model.safetensors")
    error = fails(capsys, "entity", *files, "--encoder", saved, "--output_dir", tmp_path / "out2")
    assert "missing: embeddings.LayerNorm.weight" in error
