"""The prompts of rollouts with their images masked, to measure what the policy owes to the images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import Tensor, nn

from swift.engine.batch import PromptBatch
from swift.llm.estimator_flags import EstimatorFlags
from swift.llm.images.masks import gray_image, noise_image
from swift.llm.images.protocol import Picture
from swift.llm.images.source import ImageSource, image_size
from swift.llm.policy import prompt_embeddings
from swift.llm.template.protocol import Template
from swift.trainers.data import PromptItem
from swift.trainers.rlhf_trainer.rollout import Rollout
from swift.utils.errors import UserError

HELD_FEATURES = 16  # masks whose features are kept


class MaskedPrompts:
    """Masks the images of prompts by images of the same size that are evenly gray or noise, as ``kind`` says. None
    masks nothing.

    The mask of one size is always the same image. If the policy's embedding stage is frozen, its features are computed
    once and kept.
    """

    def __init__(self, template: Template, kind: str | None, seed: int) -> None:
        self.template, self.kind, self.seed = template, kind, seed
        self._features: OrderedDict[int, tuple[Picture, Tensor]] = OrderedDict()  # by the identity of the picture

    @classmethod
    def of(cls, args: EstimatorFlags, template: Template) -> MaskedPrompts:
        """The masks that the arguments of a run ask for."""
        return cls(template, args.vision_mask if args.measures_vision else None, args.seed)

    @torch.no_grad()
    def __call__(self, model: nn.Module, rollout: Rollout, *, alike: bool) -> PromptBatch | None:
        """The masked prompts of ``rollout``, with embeddings if its own have them; None if nothing is masked.

        ``alike`` says that all processes must call ``model`` equally often. Then nothing is kept or left out.
        Raises UserError if a masked image takes other tokens than the image.
        """
        if self.kind is None or not (alike or any(item.prompt.images for item in rollout.items)):
            return None
        own, device = rollout.prompts, rollout.prompts.input_ids.device
        rows = [self._pictures(item) for item in rollout.items]
        pictures = tuple(tuple(picture.to(device) for picture in row) for row in rows)
        masked = replace(own, pictures=pictures, embeds=None)
        if own.embeds is None:
            return masked
        if alike:
            return masked.with_embeds(prompt_embeddings(model, own.input_ids, masked.image_inputs()))
        features = torch.cat([self._feature(model, picture) for row in rows for picture in row])
        places = own.input_ids == model.config.vision_config.image_token_id
        embeds = own.embeds.masked_scatter(places[..., None], features.to(own.embeds.dtype))
        return masked.with_embeds(embeds)

    def _pictures(self, item: PromptItem) -> tuple[Picture, ...]:
        """The masks of a prompt's images, prepared, in the order of their places."""
        if not item.prompt.images:
            return ()
        images = tuple(map(self._mask, item.record.images))
        prompt = self.template.encode_prompt(replace(item.record, images=images))
        if not torch.equal(prompt.input_ids, item.prompt.input_ids):
            raise UserError(
                f"{item.record.source}: its prompt has other tokens with masked images, so what it owes to them cannot "
                "be measured; leave --vision_weights, --vision_top_share and --log_vision_dependency out"
            )
        return prompt.images

    def _mask(self, source: ImageSource) -> ImageSource:
        width, height = image_size(source)
        return gray_image(width, height) if self.kind == "gray" else noise_image(width, height, self.seed)

    def _feature(self, model: nn.Module, picture: Picture) -> Tensor:
        """The features [tokens, H] of a mask. The frozen embedding stage gives the same ones at every step."""
        known = self._features.pop(id(picture), None)
        if known is None:
            device = next(model.parameters()).device
            places = torch.full((1, picture.num_tokens), model.config.vision_config.image_token_id, device=device)
            known = picture, prompt_embeddings(model, places, picture.collate([picture.to(device)]))[0]
        self._features[id(picture)] = known
        if len(self._features) > HELD_FEATURES:
            self._features.popitem(last=False)
        return known[1]
