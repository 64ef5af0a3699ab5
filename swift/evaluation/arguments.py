"""Flags of the evaluation scripts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from swift.llm.ms_swift_arguments import columns_by_field
from swift.llm.prompting import max_pixels_of
from swift.utils.decisive import DECIDES, Decides, fields_that_decide
from swift.utils.distributed import get_dist_setting
from swift.utils.errors import UserError

# Flags by their defaults that are not written into result files unless they are given.
PROMPT_FLAGS = {"max_pixels": None, "gray_window": "percentiles", "system": None, "response_prefix": None}


def _flag(help: str, default: Any = None, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass
class EvaluationArguments:
    """Flags of an evaluation: the policies, the questions, and how they are answered."""

    model_path: list[str] = field(
        metadata={
            "help": "folder of a checkpoint, an adapter, or a run (its newest checkpoint); one or several",
            DECIDES: Decides.CONTENT,
        }
    )
    base_model_path: str | None = _flag(
        "full checkpoint below an adapter folder; default: the one the adapter names", decides=Decides.CONTENT
    )
    dataset_folder: str = _flag(
        "the sweep: annotations/eval/test_{basic,compare,region}_vqa.json in this folder",
        "data/MIMIC-VQA-CoT",
        decides=Decides.CONTENT,
    )
    annotation_file: str | None = _flag("evaluate this one file instead of the sweep", decides=Decides.CONTENT)
    img_root: str | None = _flag(
        "image folder; default: the images folder nearest above a file",
        aliases=["--image_root"],
        decides=Decides.CONTENT,
    )
    image_fields: list[str] = field(
        default_factory=list,
        metadata={
            "help": "fields of a question that hold images; default: the customary names",
            DECIDES: Decides.CONTENT,
        },
    )
    columns: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": 'JSON of fields to read under other names, such as {"text1": "query", "scan": "images"}',
            DECIDES: Decides.CONTENT,
        },
    )
    allow_links: bool = _flag("follow links in the image folder that lead out of it", False, decides=Decides.CONTENT)
    unseen: Literal["refuse", "count"] = _flag(
        "questions without an image, and fields that look like an image and are not read: refuse, or count",
        "refuse",
        decides=Decides.CONTENT,
    )
    output_dir: str = _flag("folder of the result files", "result", decides=Decides.NOTHING)
    max_samples: int | None = _flag("take only the first questions of each file", decides=Decides.CONTENT)
    on_error: Literal["stop", "skip"] = _flag(
        "a question that cannot be read, or whose image cannot: stop, or skip it and list it in the result file",
        "stop",
        decides=Decides.NOTHING,
    )
    control: Literal["none", "blank", "shuffled"] = _flag(
        "blank: evenly grey images; shuffled: each question gets another patient's images", "none"
    )
    seed: int = _flag("seed of the control's shuffling and of samples", 0)
    num_samples: int = _flag("answers drawn for each question, for pass@k and the majority vote", 1)
    temperature: float = _flag("temperature of sampling; 0 is greedy", 0.0)
    max_new_tokens: int = _flag("most tokens of an answer", 256)
    batch_size: str = _flag(
        "questions decoded together; auto: as many as fit into memory, at most 64", "auto", decides=Decides.NOTHING
    )
    num_workers: int | None = _flag(
        "threads that read images ahead; 0 reads them in turn; default: 4, or 0 beside a policy on the CPU",
        decides=Decides.NOTHING,
    )
    resume: bool = _flag(
        "resume from the answers of a killed run, and keep finished files; false starts over",
        True,
        decides=Decides.NOTHING,
    )
    shard: str | None = _flag(
        "i/n: answer the i-th of n parts; the last part to finish writes the result file", decides=Decides.NOTHING
    )
    list_results: str | None = _flag(
        "append the paths of the finished result files to this file, each with a NUL byte after it",
        decides=Decides.NOTHING,
    )
    dynamic_hd: int | None = _flag("most crops an image may take; default: the checkpoint's, else 4")
    max_pixels: int | None = _flag("most pixels of an image, above which it is scaled down; default: MAX_PIXELS if set")
    gray_window: Literal["percentiles", "range"] = _flag(
        "deep images without a window: without half a percent at either end, or the whole range",
        "percentiles",
    )
    system: str | None = _flag("system turn of every question: a text, or a file that holds it")
    response_prefix: str | None = _flag("text that every answer begins with, and that is not generated")
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = _flag(
        "type of the weights; auto: as saved", "auto"
    )
    use_flash_attention: bool = _flag("attend with flash-attn if it is installed", False)
    no_tqdm: bool = _flag("no progress bar", False, decides=Decides.NOTHING)

    # TokenArguments has flags for these. They stand last: a field of a subclass keeps the place of its first mention.
    scores_tokens: ClassVar[bool] = False
    top_k_alternatives: ClassVar[int | None] = None
    given: ClassVar[str | None] = None

    _argument_group_name = "evaluation"

    def __post_init__(self):
        if not self.model_path:
            raise UserError("--model_path names no folder; give the folder of a checkpoint or a run")
        for name in ("max_samples", "num_samples", "max_new_tokens", "dynamic_hd", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value} must be 1 or more")
        for name in ("seed", "num_workers", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"--{name} {value} must be 0 or more")
        if self.num_samples > 1 and self.temperature == 0:
            raise UserError(f"--num_samples {self.num_samples} at temperature 0 are all alike; pass --temperature 0.7")
        self.max_pixels = max_pixels_of(self.max_pixels)
        self.columns = columns_by_field(self.columns)
        _ = self.most_questions, self.part

    @property
    def most_questions(self) -> int | None:
        """``--batch_size`` as a number; None for auto."""
        if self.batch_size == "auto":
            return None
        if not re.fullmatch(r"\d+", str(self.batch_size)) or int(self.batch_size) < 1:
            raise UserError(f"--batch_size {self.batch_size} must be auto, or 1 or more")
        return int(self.batch_size)

    @property
    def part(self) -> tuple[int, int]:
        """(number from 1, count) of this process's part of the batches: the part of ``--shard``, divided among the
        launcher's processes."""
        number, count = 1, 1
        if self.shard is not None:
            numbers = re.fullmatch(r"(\d+)/(\d+)", self.shard)
            number, count = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
            if not 1 <= number <= count:
                raise UserError(f"--shard {self.shard} must be i/n with i from 1 to n, such as 2/4")
        rank, _, world, _ = get_dist_setting()
        return (number - 1) * world + max(rank, 0) + 1, count * world

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what the result file holds, by flag. A restarted or divided evaluation may change
        all others. Flags of PROMPT_FLAGS that are not given are left out.
        """
        names = fields_that_decide(type(self), Decides.ANSWERS, Decides.EXTRAS)
        settings = {name: value for name, value in vars(self).items() if name in names}
        return {name: value for name, value in settings.items() if value != PROMPT_FLAGS.get(name, ...)}


@dataclass
class TokenArguments(EvaluationArguments):
    """The same flags, and those for the scores of each token."""

    scores_tokens: ClassVar[bool] = True
    top_k_alternatives: int = _flag("also list this many most likely tokens at each place", 0, decides=Decides.EXTRAS)
    given: str | None = _flag("score the text of this field, such as explanation or answer, instead of writing one")

    _argument_group_name = "evaluation of tokens"

    def __post_init__(self):
        super().__post_init__()
        if self.top_k_alternatives < 0:
            raise UserError(f"--top_k_alternatives {self.top_k_alternatives} must be 0 or more")
        if self.given is not None and self.num_samples > 1:
            raise UserError("--given scores one text a question; leave --num_samples out")
