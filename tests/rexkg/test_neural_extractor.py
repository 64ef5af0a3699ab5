"""The neural extractor against the plainest reading of the same checkpoint, and the checkpoints that it refuses."""

import json
import os
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from ReXKG import sentence_cache
from ReXKG.neural import extractor as neural
from ReXKG.neural.batching import batches
from ReXKG.neural.bert import encode_at
from ReXKG.neural.entity.model import MAX_SPAN
from ReXKG.neural.entity.reader import split_words
from ReXKG.neural.extractor import NeuralExtractor
from ReXKG.neural.folders import find_models
from ReXKG.neural.mentions import Mention
from ReXKG.neural.relation import markers
from tests.support.pure_checkpoint import MARKERS, RELATIONS, TYPES, WORDS, Naive, random_sentences, write_checkpoint

LONG = " ".join(random.Random(1).choices(WORDS, k=300))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("pure"))


@pytest.fixture(scope="module")
def extractor(root):
    return NeuralExtractor(find_models(root), "cpu")


@pytest.fixture(scope="module")
def short_extractor(tmp_path_factory):
    """A model that takes 64 word-pieces."""
    return NeuralExtractor(find_models(write_checkpoint(tmp_path_factory.mktemp("short"), positions=64)), "cpu")


@pytest.fixture
def copy(root, tmp_path):
    return shutil.copytree(root, tmp_path / "copy")


def load(root, **options):
    return NeuralExtractor(find_models(root), "cpu", **options)


def contents(graphs):
    return [{key: value for key, value in graph.items() if key != "doc_key"} for graph in graphs]


def test_a_thousand_sentences_read_as_one_at_a_time(root, extractor):
    sentences = random_sentences(1000)
    texts = [". ".join(sentences[i : i + 2]) + ". Alone." for i in range(0, 1000, 2)]
    graphs = extractor(texts)
    assert graphs == Naive(root)(texts)
    # the checkpoint is worth reading: a third of the words are entities, every type and every relation occurs
    words = sum(len(graph["sentences"].split()) for graph in graphs)
    assert 0.25 < sum(len(graph["entities"]) for graph in graphs) / words < 0.45
    assert {kind for graph in graphs for kind in graph["entities"].values()} == set(TYPES)
    assert {relation["type"] for graph in graphs for relation in graph["relations"]} == set(RELATIONS[1:])


def test_neither_batch_size_nor_order_nor_company_changes_a_graph(root, extractor):
    texts = random_sentences(150, seed=3)
    expected = contents(extractor(texts))
    shuffled = list(range(150))
    random.Random(0).shuffle(shuffled)
    for budget in (1, 50, 100_000):
        graphs = contents(load(root, token_budget=budget)([texts[i] for i in shuffled]))
        assert [graphs[shuffled.index(i)] for i in range(150)] == expected
    alone = load(root)
    assert [contents(alone([text]))[0] for text in texts] == expected


def test_the_encoder_gives_the_numbers_of_transformers_at_every_position_and_at_some():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    bert = BertModel(config, add_pooling_layer=False).eval()
    ids, mask = torch.randint(0, 50, (4, 9)), torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:] = mask[2, 1:] = 0
    wanted = torch.tensor([[0, 8], [4, 4], [0, 0], [3, 1]])
    with torch.no_grad():
        expected = bert(ids, mask).last_hidden_state
        torch.testing.assert_close(encode_at(bert, ids, mask)[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=0)
        hidden = encode_at(bert, ids, mask, wanted)
    torch.testing.assert_close(hidden, expected[torch.arange(4)[:, None], wanted], atol=1e-5, rtol=0)


def test_batches_hold_everything_once_within_the_budget_sorted_by_length():
    class Item:
        def __init__(self, length):
            self.ids = [0] * length

    items = [Item(random.Random(i).randint(1, 60)) for i in range(500)]
    filled = list(batches(items, 100))
    assert {id(item) for batch in filled for item in batch} == set(map(id, items))
    assert sum(map(len, filled)) == 500
    assert all(len(batch) * max(len(item.ids) for item in batch) <= 100 for batch in filled)
    padding = sum(len(batch) * max(len(item.ids) for item in batch) for batch in filled)
    assert padding < 1.1 * sum(len(item.ids) for item in items)


def test_a_changed_graph_does_not_change_what_is_remembered(extractor):
    text = random_sentences(1, seed=5)[0]
    first = extractor([text])[0]
    first["entities"]["spoilt"] = "spoilt"
    first["relations"].append("spoilt")
    assert "spoilt" not in str(extractor([text]))


def test_only_so_many_sentences_are_remembered_and_the_least_recently_used_is_forgotten(root, monkeypatch):
    monkeypatch.setattr(sentence_cache, "CACHED_SENTENCES", 10)
    reader = load(root)
    texts = random_sentences(11, seed=6)
    names = [graph["sentences"] for graph in reader(texts[:10])]
    reader(texts[:1])
    names += [graph["sentences"] for graph in reader(texts[10:])]
    assert reader.cache.sentences() == [*names[2:10], names[0], names[10]]


def test_more_sentences_than_are_read_at_once_or_remembered_all_get_their_graph(root, extractor, monkeypatch):
    texts = random_sentences(30, seed=6)
    expected = extractor(texts)
    monkeypatch.setattr(sentence_cache, "CACHED_SENTENCES", 10)
    monkeypatch.setattr(neural, "READ_AT_ONCE", 7)
    assert load(root)(texts) == expected


def test_old_pickled_weights_and_safetensors_read_alike(copy, extractor):
    for folder in (copy / "run_entity", copy / "run_relation"):
        tensors = load_file(folder / "model.safetensors")
        old = {name: value for name, value in tensors.items() if not name.startswith("bert.pooler.")}
        torch.save(old | {"bert.embeddings.position_ids": torch.arange(512)[None]}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    texts = random_sentences(50, seed=7)
    assert load(copy)(texts) == extractor(texts)
    assert load(copy).name == extractor.name
    assert extractor.name.startswith("neural-")


def test_another_weight_is_another_name(copy, extractor):
    path = copy / "run_relation" / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.bias"][0] += 1
    save_file(tensors, path)
    assert load(copy).name != extractor.name


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(copy, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    (copy / "run_entity" / "model.safetensors").unlink()
    torch.save({"bert": Payload()}, copy / "run_entity" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: refused"):
        load(copy)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04broken"])
def test_a_broken_weight_file_is_named(copy, content):
    for name in ("model.safetensors", "pytorch_model.bin"):
        for old in (copy / "run_relation").glob("*model.*"):
            old.unlink()
        (copy / "run_relation" / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: refused"):
            load(copy)


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_and_unexpected_tensors_are_listed(copy):
    change(copy / "run_entity", lambda tensors: tensors.pop("width_embedding.weight"))
    change(copy / "run_entity", lambda tensors: tensors.update({"crf.weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"run_entity.*missing: width_embedding\.weight; unexpected: crf\.weight$"):
        load(copy)


def test_a_checkpoint_with_other_labels_is_refused(copy):
    change(copy / "run_relation", lambda tensors: tensors.update({"classifier.weight": torch.zeros(5, 64)}))
    with pytest.raises(ValueError, match=r"classifier\.weight \[5, 64\] instead of \[4, 64\]"):
        load(copy)


def test_an_encoder_that_is_not_a_bert_is_refused(copy):
    (copy / "run_entity" / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(ValueError, match=r"run_entity/config\.json: model_type 'albert'"):
        load(copy)


def test_half_precision_checkpoints_are_read_in_float32(copy):
    change(copy / "run_entity", lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    assert {parameter.dtype for parameter in load(copy).entities.model.parameters()} == {torch.float32}


def test_without_its_own_markers_a_checkpoint_gets_the_published_ones_and_the_log_says_so(copy, caplog):
    (copy / "run_relation" / "special_tokens.json").unlink()
    texts = random_sentences(30, seed=8)
    markers.logger.addHandler(caplog.handler)
    try:
        reader = load(copy)
    finally:
        markers.logger.removeHandler(caplog.handler)
    assert "32 of 32 entity markers are [UNK]" in caplog.text
    unknown = Naive(copy, dict.fromkeys(MARKERS, "[UNK]"))
    assert reader(texts) == unknown(texts) != Naive(copy)(texts)


def test_the_published_markers_can_be_asked_for(root, extractor):
    texts = random_sentences(30, seed=8)
    published = load(root, markers="published")
    assert published(texts) == Naive(root, dict.fromkeys(MARKERS, "[UNK]"))(texts)
    assert published.name != extractor.name
    with pytest.raises(ValueError, match="'publisht' is unknown: use one of checkpoint, published"):
        load(root, markers="publisht")


def test_published_markers_that_the_vocabulary_knows_are_used(copy):
    vocabulary = copy / "run_relation" / "vocab.txt"
    entries = vocabulary.read_text().splitlines()
    written = {name: f"<{name}>".lower() for name in MARKERS}
    place = {entry: written[name] for name, entry in MARKERS.items()}
    vocabulary.write_text("\n".join(place.get(entry, entry) for entry in entries))
    (copy / "run_relation" / "special_tokens.json").unlink()
    texts = random_sentences(30, seed=9)
    shutil.copy(vocabulary, copy / "run_entity" / "vocab.txt")
    assert load(copy)(texts) == Naive(copy, written)(texts)


def test_markers_that_are_not_in_the_vocabulary_are_an_error(copy):
    (copy / "run_relation" / "special_tokens.json").write_text(json.dumps(MARKERS | {"OBJ_END=size": "[unused77]"}))
    with pytest.raises(ValueError, match=r"special_tokens\.json: \[unused77\] not in the vocabulary"):
        load(copy)


def test_the_base_tokenizer_serves_folders_without_a_vocabulary(copy, extractor):
    (copy / "BiomedNLP").mkdir()
    (copy / "run_entity" / "vocab.txt").rename(copy / "BiomedNLP" / "vocab.txt")
    (copy / "run_relation" / "vocab.txt").unlink()
    assert load(copy).name == extractor.name
    (copy / "BiomedNLP" / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"no vocab\.txt in .*run_entity, .*BiomedNLP"):
        load(copy)


@pytest.mark.parametrize("place", ["", "result", "result1"])
def test_models_are_found_where_the_original_project_has_them(root, tmp_path, place):
    shutil.copytree(root, tmp_path / place, dirs_exist_ok=True)
    assert find_models(tmp_path).entity == tmp_path / place / "run_entity"


def test_no_models_are_none_and_half_of_them_an_error(copy, tmp_path):
    assert find_models(tmp_path / "nowhere") is None
    (copy / "run_entity" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"run_relation has weights but .*run_entity has none"):
        find_models(copy)


def test_every_span_of_a_long_sentence_is_judged_once_in_a_window_that_holds_it():
    draw = random.Random(0)
    for _ in range(200):
        room = draw.randint(2 * MAX_SPAN, 120)
        lengths = [draw.randint(1, room // (2 * MAX_SPAN)) for _ in range(draw.randint(1, 400))]
        judged = []
        for first, end, start, until in split_words(lengths, room):
            assert sum(lengths[first:end]) <= room
            judged += range(start, until)
            # the longest span from the last judged start ends inside, or the sentence does
            # what a window sees before its first judged word is a quarter of the room, less a word that did not fit
            assert (room // 4 - room // 16 < sum(lengths[first:start]) <= room // 4) if first else True
            assert until + MAX_SPAN - 1 <= end or end == len(lengths)
        assert judged == list(range(len(lengths)))


def test_spans_of_a_long_sentence_are_those_of_their_windows(short_extractor, tmp_path):
    naive = Naive(write_checkpoint(tmp_path, positions=64))
    words = LONG.split()
    windows = list(short_extractor.entities.windows(0, words))
    assert len(windows) > 5
    expected = []
    for window in windows:
        seen = words[window.first : window.first + len(window.starts)]
        here = [Mention(window.first + i, window.first + j, kind) for i, j, kind in naive.entities(seen)]
        expected += [mention for mention in here if window.judged_from <= mention.start < window.judged_to]
    assert short_extractor.entities.predict([words]) == [expected]
    assert expected[-1].start > 250


def test_the_end_of_a_long_sentence_has_its_relations_too(short_extractor):
    words = LONG.split()
    mentions = short_extractor.entities.predict([words])
    relations = short_extractor.relations.predict([words], mentions)[0]
    assert max(relation.source.start for relation in relations) > 250


def test_pairs_of_a_long_sentence_see_the_words_around_them(short_extractor):
    reader = short_extractor.relations
    words = WORDS * 5  # 200 words of one piece each; 58 fit beside [CLS], [SEP] and four markers
    ids = [reader.pieces(word)[0] for word in words]
    markers = {piece for markers in reader.markers.values() for piece in markers}
    source, near, far = Mention(100, 101, "anatomy"), Mention(110, 110, "size"), Mention(160, 160, "size")
    pairs = {(pair.source, pair.target): pair for pair in reader.pairs(0, words, [source, near, far])}
    assert set(pairs) == {(source, near), (near, source), (near, far), (far, near)}
    for (first, second), pair in pairs.items():
        assert len(pair.ids) == 64
        assert pair.ids[pair.markers[0]] == reader.markers[first.label].source_start
        assert pair.ids[pair.markers[1]] == reader.markers[second.label].target_start
    seen = [piece for piece in pairs[source, near].ids[1:-1] if piece not in markers]
    assert seen == ids[77:135]  # the pair takes 11 words; 23 go before it and 24 after it
    assert [piece for piece in pairs[near, far].ids[1:-1] if piece not in markers] == ids[107:165]


def test_markers_that_meet_stand_end_before_start_and_source_before_target(extractor):
    reader = extractor.relations
    words = WORDS[:4]
    a, b, c, d = (reader.pieces(word)[0] for word in words)
    left, both = Mention(0, 1, "anatomy"), Mention(2, 2, "size")
    s, t = reader.markers["anatomy"], reader.markers["size"]
    pairs = {(pair.source, pair.target): pair for pair in reader.pairs(0, words, [left, both])}
    middle = [s.source_start, a, b, s.source_end, t.target_start, c, t.target_end, d]
    assert pairs[left, both].ids == [reader.pieces.cls, *middle, reader.pieces.sep]
    nested = Mention(0, 0, "size")
    pair = next(pair for pair in reader.pairs(0, words, [nested, left]) if pair.source == left)
    assert pair.ids[1:] == [s.source_start, t.target_start, a, t.target_end, b, s.source_end, c, d, reader.pieces.sep]
    assert pair.markers == (1, 2)


@pytest.mark.parametrize(
    "text",
    ["", " \n\t", "🫁 " * 400, "\x00\x01 \x02 \x03", "x" * 20_000, "-" * 20_000 + " bara", "<b>" * 500,
     "胸片未见异常" * 99, ". " * 5000, "bara " * 100, "[SEP] [CLS] [PAD] [unused1] <subj_start=size>"],
    ids=["empty", "blank", "emoji", "control", "word", "hyphens", "markup", "chinese", "dots", "repeated", "special"],
)  # fmt: skip
def test_any_text_is_read(short_extractor, text):
    graph = short_extractor([text])[0]
    assert set(graph["entities"].values()) <= set(TYPES)
