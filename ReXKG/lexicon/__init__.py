"""The lexicon extractor: a vocabulary, rules for negation and rules for relations.

A sentence passes through the modules in this order:
1. `wording.py` cuts it into words, lines and bullets, and `extractor.py` tags them: one item per word or phrase. The
   items come from `vocabulary.py`, which reads `lexicon.tsv` and `cues.tsv` (`lexicon_files.py`) and knows words in
   neither by their form (`word_forms.py`). Numbers with a unit are sizes.
2. `polarity/` decides which disorders and devices are denied and which are left out. It does not depend on relations.
3. `attachment.py` relates the entities, those inside a noun phrase by `chunks.py`. It does not depend on negation.

`items.py` is the record between these steps. `cues.py` and `roles.py` hold the names that the two files may use.
`mention_polarity.py` applies the second step to the mentions of another extractor.
"""
